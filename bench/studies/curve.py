"""Print a run's validations during training as a table.

python train.py --preset sprint --val-loss-every 100 --data DIR --run-dir RUN
python -m bench curve RUN > bench/results/curve-DEVICE.md
"""

from pathlib import Path

from bench.harness.record import Commit, as_lines, provenance
from errors import InputError
from runtime.plot import Events
from runtime.records import read_settings, read_summary


def main(run: Path, /, *, commit: Commit = None) -> None:
    """Print a row for each validation.

    Args:
        run: its folder, on the machine that trained it
        commit: of the code, if it is no git checkout
    """
    curves = Events.read(run / "log.jsonl").curves()
    if not curves:
        raise InputError(f"{run} has no curve: train with --val-loss-every N")
    summary, settings = read_summary(run), read_settings(run)
    print("`python -m bench curve RUN`, of a run with --val-loss-every\n")
    print(as_lines(provenance(commit)))
    print(f"preset {settings.get('preset')}, {summary.steps} steps\n")
    print("| weights | seconds | bpb |\n|---|---|---|")
    for name, (seconds, bpb) in curves.items():
        for when, score in zip(seconds, bpb, strict=True):
            print(f"| {name} | {when:.2f} | {score:.4f} |")
