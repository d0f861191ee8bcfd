"""``python -m swarm``: recompute a run's decisions, or try a swarm without a GPU."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from errors import InputError
from settings.load import load_settings
from swarm.decision_log import NAME, Record, read
from swarm.replay import replay
from swarm.report import decisions_table
from swarm.simulate import KINDS, SyntheticRun, recorded, simulate
from swarm.steering import Steering

SHOWN = 10  # differences; one wrong state makes all cycles after it differ


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where a replay differs, 2 for bad input."""
    given, rest = build_parser().parse_known_args(arguments)
    console = Console()
    try:
        if given.command == "simulate":
            console.print(decisions_table(_simulate(given.trace, given.trace_seed, rest)))
            return 0
        if rest:
            raise InputError(f"replay knows no {rest[0]}; it takes a run folder, nothing else")
        return _replay(given.run / NAME if given.run.is_dir() else given.run, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="python -m swarm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    again = commands.add_parser(
        "replay", help="recompute every decision of a run; 1 if one differs"
    )
    again.add_argument("run", type=Path, help="run folder, or its decision log")
    trial = commands.add_parser("simulate", help="let a swarm steer a made-up or recorded run")
    trial.add_argument("trace", help=f"run folder, or one of: {', '.join(KINDS)}")
    trial.add_argument("--trace-seed", type=int, default=0, help="of a made-up run's noise")
    trial.epilog = "All else is settings, as train.py takes them: --preset, --agents-off, ..."
    return parser


def _replay(path: Path, console: Console) -> int:
    records = list(read(path))
    count, differences = replay(path, records)
    console.print(decisions_table(records))
    for line in differences[:SHOWN]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if differences:
        console.print(f"{len(differences)} differences in {count} cycles")
        return 1
    console.print(f"{count} cycles, each recomputed alike")
    return 0


def _simulate(trace: str, seed: int, rest: Sequence[str]) -> list[Record]:
    if trace in KINDS:
        made_up = SyntheticRun(trace, seed)
        return simulate(_steering(rest), made_up, made_up.obey)
    log, settings = Path(trace) / "log.jsonl", Path(trace) / "settings.toml"
    if not log.is_file():
        raise InputError(f"{trace} is no run folder, and none of: {', '.join(KINDS)}")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    try:
        rows = list(recorded(json.loads(line) for line in lines if line.endswith("\n")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} is damaged ({error!r}); restore the file") from None
    return simulate(_steering(["--config", str(settings), *rest]), rows)


def _steering(arguments: Sequence[str]) -> Steering:
    steering = Steering.of(load_settings(arguments))
    if steering is None:
        raise InputError("these settings have no swarm; give --swarm, and fewer --agents-off")
    return steering


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
