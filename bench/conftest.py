"""``pytest bench [-k "norm and forward"]``: contests under pytest-benchmark, one a test.

Measurements are compared with the committed baseline of this kind of GPU, if there is one.
``--save bench/results`` writes a new one; ``--compare FILE`` names another.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench.harness.bar import Result
from bench.harness.baseline import COMMITTED, baseline_name, losses, save
from bench.harness.contest import Ceilings, Contest, measure_ceilings, report, run_contest
from bench.harness.figures import Figure, figures_table
from bench.harness.operation import DIRECTIONS
from bench.harness.record import as_lines, provenance
from errors import InputError
from kernels.peers import missing

RESULTS = pytest.StashKey[list[Result]]()
CEILINGS = pytest.StashKey[Ceilings]()
FIGURES = pytest.StashKey[list[Figure]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--save", type=Path, help="folder to write this kind of GPU's baseline in")
    parser.addoption("--compare", type=Path, help="fail where a ratio fell 5 % below a baseline's")
    parser.addoption("--commit", help="of the code, where it is no git checkout")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of ``--save``, and end on SIGTERM as on Ctrl-C: with the tables so far."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = config.getoption("--save")
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(f"--save {folder}: {error.strerror}") from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "device" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session", autouse=True)
def side_stream() -> Iterator[None]:
    """Run all on one stream, because no graph can be captured on the default one.

    A backward pass runs on the stream of its forward pass.
    """
    with torch.cuda.stream(torch.cuda.Stream() if torch.cuda.is_available() else None):
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(scope="session")
def ceilings(device: torch.device, request: pytest.FixtureRequest) -> Ceilings:
    measured = measure_ceilings(device)
    request.config.stash[CEILINGS] = measured
    return measured


@pytest.fixture(params=DIRECTIONS)
def direction(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def contest(
    benchmark, ceilings: Ceilings, device: torch.device, request: pytest.FixtureRequest
) -> Callable[[Contest], Result]:
    """``contest(Contest(...))``: check, time in turn, keep for the table; once a test."""

    def run(entered: Contest) -> Result:
        result = run_contest(entered, ceilings, device)
        request.config.stash.setdefault(RESULTS, []).append(result)
        benchmark.group = entered.name.split(",")[0]
        benchmark.extra_info.update(device_us=1e6 * result.seconds, ratios=result.ratios)

        def call() -> None:
            entered.ours()
            torch.cuda.synchronize()

        benchmark.pedantic(call, rounds=5)
        return result

    return run


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[list[Figure]], None]:
    """``figures([Figure(...)])``: keep numbers for the table."""
    return request.config.stash.setdefault(FIGURES, []).extend


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    results, figures = config.stash.get(RESULTS, []), config.stash.get(FIGURES, [])
    if not results and not figures:
        return
    about = provenance(config.getoption("--commit"))
    print(f"\n\n{as_lines(about)}")
    if figures:
        print(figures_table(figures) + "\n")
    if not results:
        return
    print(report(results, config.stash[CEILINGS]))
    print(missing() or "no peer is missing")
    if not compare(results, config.getoption("--compare"), about["device"]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    folder = config.getoption("--save")
    if folder is not None and exitstatus != pytest.ExitCode.INTERRUPTED:
        save(folder / baseline_name(about["device"]), results, about)


def compare(results: list[Result], baseline: Path | None, device: str) -> bool:
    """Whether nothing fell behind the baseline, the committed one where none is named."""
    committed = COMMITTED / baseline_name(device)
    if baseline is None and not committed.exists():
        print(f"no baseline {committed.name} to compare with")
        return True
    try:
        fallen = losses(baseline or committed, results, device)
    except InputError as error:
        fallen = [str(error)]
    print("\n".join(f"baseline: {line}" for line in fallen or ["nothing fell behind"]))
    return not fallen
