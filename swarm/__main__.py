"""``python -m swarm``: recompute a run's decisions, or try a swarm without a GPU."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import command_line
import terminal
from errors import InputError
from runtime.records import read_log
from settings.load import merge
from settings.options import NOTHING, Given
from swarm.decision_log import NAME, Record, read
from swarm.replay import replay
from swarm.report import decisions
from swarm.simulate import KINDS, SyntheticRun, recorded, simulate
from swarm.steering import Steering

SHOWN = 10  # differences; one wrong state makes all cycles after it differ
app = command_line.program(
    "python -m swarm", "Recompute a run's decisions, or try a swarm without a GPU."
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 1 where a replay differs, 2 for bad input."""
    return command_line.run(app, arguments)


@app.command(name="replay")
def replay_run(run: Path, /) -> int:
    """Recompute every decision of a run; the exit code is 1 if one differs.

    Args:
        run: run folder, or its decision log
    """
    path = run / NAME if run.is_dir() else run
    out = terminal.console(markup=True)
    records = list(read(path))
    count, differences = replay(path, records)
    terminal.show(decisions(records), out)
    for line in differences[:SHOWN]:
        out.print(line, markup=False)
    if differences:
        out.print(f"{len(differences)} differences in {count} cycles")
        return 1
    out.print(f"{count} cycles, each recomputed alike")
    return 0


@app.command(name="simulate")
def simulate_run(
    trace: Annotated[str, Parameter(help=f"run folder, or one of: {', '.join(KINDS)}")],
    /,
    *,
    trace_seed: Annotated[int, Parameter(help="of a synthetic run's noise")] = 0,
    given: Given = NOTHING,
) -> None:
    """Let a swarm steer a synthetic or recorded run, with settings as train.py takes them."""
    out = terminal.console(markup=True)
    terminal.show(decisions(simulated(trace, trace_seed, given)), out)


def simulated(trace: str, seed: int, given: Given) -> list[Record]:
    """Return the decisions of a swarm in a recorded run or in a synthetic one of this seed.

    Raises:
        InputError: there is no such run, or its log is damaged.
    """
    if trace in KINDS:
        made_up = SyntheticRun(trace, seed)
        return simulate(_steering(given), made_up, made_up.obey)
    log, settings = Path(trace) / "log.jsonl", Path(trace) / "settings.toml"
    if not log.is_file():
        raise InputError(f"{trace} is no run folder, and none of: {', '.join(KINDS)}")
    try:
        rows = list(recorded(read_log(log)))
    except ValueError as error:
        raise InputError(f"{log} is damaged ({error}); restore the file") from None
    return simulate(_steering({"config": str(settings), **given}), rows)


def _steering(given: Given) -> Steering:
    steering = Steering.of(merge(given))
    if steering is None:
        raise InputError("these settings have no swarm; give --swarm, and fewer --agents-off")
    return steering


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
