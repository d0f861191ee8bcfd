"""Measure what saves a run in trouble: the swarm, published guards, or nothing.

    python -m bench rescue --data DIR --preset frontier-sprint --seconds 40 --seeds 2 --out FILE
        --arms S O --no-artifact -- --swarm-agents frontier --swarm-every 10
    python -m bench rescue ... --troubles none --seeds 30 --priced 6 --arms S --no-artifact -- ...

Each run has one planted trouble that nothing in it is told of. Arms: F0 is the fixed table without
swarm, F1 adds ZClip, F2 AdaGC; S has the swarm; Y obeys what the swarm decided in the clean run of
the same seed; O is fixed and told of the trouble. What follows ``--`` goes to every run.

``--arms S O`` suffices for the runs and the share that the swarm rescues, and O mostly is F0's
clean run. The second command counts false alarms in 30 clean runs, and pairs 6 with F0's.

Troubles for development may be looked at. The others are sealed: they are scored with ``--sealed``
only, and how often is kept in ``bench/results/rescue-sealed.json``. Finished runs are not repeated.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.progress import Progress

from bench.harness.pairs import CHEAP, FIRST_SEED, check, check_seeds, passed_on, series
from bench.harness.record import Commit, provenance, write_json, write_table
from bench.harness.refusals import check_clock, check_series
from bench.harness.runs import Summary, shared_by, summaries_of
from bench.rescue.runs import OUTCOME, Run, outcome
from bench.rescue.table import CLEAN, NONE, Found, report, text_of
from bench.rescue.troubles import TROUBLES
from errors import InputError
from files import PROJECT
from settings import Settings
from settings.load import load_settings
from swarm.decision_log import NAME

SEALED = PROJECT / "bench" / "results" / "rescue-sealed.json"
OFF = ("--no-swarm",)
ARMS: dict[str, tuple[str, ...]] = {"F0": OFF, "F1": OFF, "F2": OFF, "S": (), "Y": (), "O": OFF}
# Schedules in fractions of the run, where a preset counts steps.
SHARES = {"warmdown_share": 0.5, "muon_momentum_warmup_share": 0.2}


@Parameter(name="*")
@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        seconds: of a run's clock; 0: as settings say
        step_seconds: that each step counts on that clock, whatever it takes; 0: real time
        seeds: runs of each, from 1337 on
        troubles: those for development unless given; clean runs always come first; none: only they
        arms: beside F0
        priced: seeds with clean runs of arms without swarm, the first ones; 0: all
        artifact: make artifacts; otherwise scores are of the weights that they would hold
        sealed: score sealed troubles, too
    """

    seconds: float = 0.0
    step_seconds: float = 0.0
    seeds: int = 2
    troubles: Annotated[tuple[str, ...], Parameter(choices=(NONE, *TROUBLES))] = ()
    arms: Annotated[tuple[str, ...], Parameter(choices=tuple(ARMS))] = tuple(ARMS)
    priced: int = 0
    artifact: bool = True
    sealed: bool = False

    @property
    def chosen(self) -> list[str]:
        """Return the troubles that are planted."""
        may = [name for name, each in TROUBLES.items() if self.sealed or not each.sealed]
        return [name for name in dict.fromkeys(self.troubles or may) if name != NONE]

    @property
    def all_arms(self) -> list[str]:
        """Return the arms, F0 first."""
        return list(dict.fromkeys(["F0", *self.arms]))

    def command(self) -> str:
        """Return its options as text."""
        options = f"--seconds {self.seconds:g} --step-seconds {self.step_seconds:g}"
        options += f" --seeds {self.seeds} --arms {shlex.join(self.arms)}"
        if self.troubles:
            options += f" --troubles {shlex.join(self.troubles)}"
        options += f" --priced {self.priced}" * (self.priced > 0)
        return options + " --no-artifact" * (not self.artifact) + " --sealed" * self.sealed


EVERYTHING = Asked()


def main(
    *settings: str,
    data: Path,
    preset: str = "tiny",
    asked: Asked = EVERYTHING,
    runs: Path = Path("runs/rescue"),
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Run what is not finished, print the table; after each run it is written to ``--out``.

    Args:
        settings: for train.py, after --
        data: as shards
        preset: of all runs
        asked: what is measured
        runs: for run folders
        out: file for the table; its JSON lies beside it

    Returns:
        0; 130 or 143 if it was interrupted, with a table of the finished runs.
    """
    base = base_of(preset, data, asked.seconds, settings)
    planned = [plan(base, asked, names, runs) for names in ([CLEAN], asked.chosen)]
    noted = SEALED if asked.sealed else None
    check_series([run.command for each in planned for run in each], out, noted)
    scorings()  # a damaged list is refused before the first run
    if any(TROUBLES[name].sealed for name in asked.chosen):
        open_seal(asked, planned[1], shlex.join(base[2:]), commit)
    command = f"python -m bench rescue --data DIR --preset {preset} {asked.command()}"
    command += passed_on(settings)
    found: Found = {}

    def keep() -> None:
        if out and found.get((CLEAN, "F0")):
            write(out, {"command": command, **provenance(commit), **summary(found)})

    def work() -> None:
        for round_ in planned:  # a yoked run obeys a clean one
            make(round_, found, keep)

    return series(work, lambda: text_of(summary(found)) if found.get((CLEAN, "F0")) else "")


def summary(found: Found) -> dict[str, Any]:
    """Return the report, and how often sealed troubles were scored."""
    return {**report(found), "sealed_scorings": len(scorings())}


def write(out: Path, result: Mapping[str, Any]) -> None:
    """Write a result as tables, and as JSON beside them."""
    about = {name: result[name] for name in ("device", "torch", "commit", "date")}
    write_table(out, result["command"], about, text_of(result))
    write_json(out.with_suffix(".json"), result)


def base_of(preset: str, data: Path, seconds: float, settings: Sequence[str]) -> list[str]:
    """Return the options of all runs, whose schedules are fractions of the run."""
    base = ["--data", str(data), "--preset", preset, *CHEAP]
    if seconds:
        base += ["--wallclock", str(seconds)]
    given = load_settings([*base, *settings])
    for name, share in SHARES.items():
        if not getattr(given, name):
            base += [f"--{name.replace('_', '-')}", str(share)]
    return [*base, *settings]


def plan(base: Sequence[str], asked: Asked, troubles: Sequence[str], folder: Path) -> list[Run]:
    """Return the runs of some troubles, seed by seed: a stop leaves whole rounds.

    Raises:
        InputError: as ``check_asked``; settings that no run can have, or a folder that holds a
            run of other ones.
    """
    check_asked(asked)
    last = FIRST_SEED + (asked.priced or asked.seeds)
    planned = []
    for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
        for trouble in troubles:
            for arm in asked.all_arms:
                if not needed(trouble, arm) or (arm != "S" and seed >= last):
                    continue
                command = [*base, "--seed", str(seed), *ARMS[arm]]
                if arm == "Y":
                    command += ["--swarm-yoke", str(place(folder, CLEAN, "S", seed) / NAME)]
                if arm == "O":
                    command += shortened(load_settings(command), TROUBLES[trouble].length)
                here, settings = place(folder, trouble, arm, seed), load_settings(command)
                check(here, settings)
                check_clock(settings)
                how = asked.step_seconds, asked.artifact
                planned.append(Run(here, command, trouble, arm, seed, *how))
    return planned


def check_asked(asked: Asked) -> None:
    """Raise InputError for numbers or arms that cannot be measured together."""
    check_seeds(asked.seeds)
    if not 0 <= asked.step_seconds < math.inf:
        raise InputError(f"--step-seconds {asked.step_seconds:g}: give seconds, or 0 for real time")
    if asked.priced < 0:
        raise InputError(f"--priced {asked.priced}: give a number of seeds, or 0 for all")
    if "Y" in asked.arms and "S" not in asked.arms:
        raise InputError("--arms Y obeys clean runs of S: give S, too")
    if asked.priced and asked.chosen:
        raise InputError("--priced: troubles are compared with all clean runs; --troubles none")


def needed(trouble: str, arm: str) -> bool:
    """Return whether an arm has runs of its own; an oracle that is told of nothing is clean."""
    if trouble == CLEAN:
        return arm not in ("O", "Y")
    return arm != "O" or TROUBLES[trouble].told is not None or TROUBLES[trouble].length < 1


def place(folder: Path, trouble: str, arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    name = (trouble or "clean").replace(", ", "-").replace(" ", "-")
    return folder / f"{name}-{arm}-{seed}"


def shortened(settings: Settings, length: float) -> list[str]:
    """Return options for a run of a fraction of the length."""
    if settings.wallclock:
        return ["--wallclock", str(settings.wallclock * length)]
    return ["--iterations", str(round(settings.iterations * length))]


def make(planned: Sequence[Run], found: Found, keep: Callable[[], object]) -> None:
    """Make the runs that are planned; their outcomes go to ``found``, and each is kept at once."""
    with Progress() as progress:
        made = summaries_of(planned, outcome, sharing=shared_by(run.command for run in planned))
        outcomes = zip(planned, made, strict=True)
        for run, of in progress.track(outcomes, len(planned), description="runs"):
            found.setdefault((run.trouble, run.arm), {})[run.seed] = dict(of)
            progress.console.print(f"{run.folder.name}: {said(of)}", soft_wrap=True)
            keep()


def said(of: Summary) -> str:
    """Return an outcome as text."""
    return f"{of['bpb']:.4f}, {of['steps']} steps" if of["bpb"] is not None else "lost"


def open_seal(asked: Asked, planned: Sequence[Run], settings: str, commit: str | None) -> None:
    """Note that sealed troubles are scored. A series that goes on was noted when it began.

    Raises:
        InputError: nobody said that they may be.
    """
    names = [name for name in asked.chosen if TROUBLES[name].sealed]
    if not asked.sealed:
        raise InputError(
            f"{', '.join(names)}: sealed, so that nothing is fitted on them; give --sealed to "
            f"score them, which {SEALED.name} notes"
        )
    if any(TROUBLES[run.trouble].sealed and (run.folder / OUTCOME).exists() for run in planned):
        return
    about = {key: value for key, value in provenance(commit).items() if key != "torch"}
    note = {**about, "troubles": names, "arms": asked.all_arms, "seeds": asked.seeds}
    write_json(SEALED, [*scorings(), {**note, "settings": settings}])


def scorings() -> list[dict]:
    """Return each time that sealed troubles were scored. Raises InputError for a damaged list."""
    try:
        return json.loads(SEALED.read_text(encoding="utf-8")) if SEALED.exists() else []
    except ValueError as error:
        raise InputError(f"{SEALED}: {error}; restore it from its commit") from None
