"""``pytest bench [-k norm] [--save FILE] [--compare FILE]``: contests under pytest-benchmark."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.harness import (
    Ceilings,
    Contest,
    Result,
    losses,
    measure_ceilings,
    report,
    run_contest,
    save,
)
from bench.record import provenance

RESULTS = pytest.StashKey[list[Result]]()
CEILINGS = pytest.StashKey[Ceilings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--save", type=Path, help="write the results as a baseline")
    parser.addoption("--compare", type=Path, help="fail where a ratio fell 5 % below a baseline's")
    parser.addoption("--commit", help="of the code, where it is no git checkout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(scope="session")
def ceilings(device: torch.device, request: pytest.FixtureRequest) -> Ceilings:
    measured = measure_ceilings(device)
    request.config.stash[CEILINGS] = measured
    return measured


@pytest.fixture
def contest(
    benchmark, ceilings: Ceilings, device: torch.device, request: pytest.FixtureRequest
) -> Callable[[Contest], Result]:
    """``contest(Contest(...))``: check, time in turn, keep for the table; returns the result."""

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


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    results = config.stash.get(RESULTS, [])
    if not results:
        return
    about = provenance(config.getoption("--commit"))
    print("\n\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    print(report(results, config.stash[CEILINGS]))
    new, baseline = config.getoption("--save"), config.getoption("--compare")
    if new is not None:
        save(new, results, about)
    if baseline is not None:
        fallen = losses(baseline, results, about["device"])
        for line in fallen:
            print(f"slower than the baseline: {line}")
        if fallen:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
