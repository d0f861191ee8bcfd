"""A contest folder of finished runs: ``train_gpt.py``, logs, scores and what they are worth.

The layout is parameter-golf's: ``records/<track>/<date>_<name>/`` with ``README.md``,
``submission.json``, ``train_gpt.py`` and the logs of several seeds.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from artifact.submission.accounts import audited, check_alike, check_code, checked
from artifact.submission.asked import BY_BEST, NO_RIVAL, NOTHING_SAID, About, Judging, Rival
from artifact.submission.bundle import contents, readable
from artifact.submission.code_size import SCRIPT
from artifact.submission.entry import Entry, other_runs
from artifact.submission.first_steps import Say, first_steps
from artifact.submission.packed import pack
from artifact.submission.page import AUDIT, READABLE, readme, submission
from artifact.submission.verdict import Verdict
from errors import InputError
from files import PROJECT
from runtime.progress import Progress

# A CUDA build of torch brings the Triton that it was made with; a CPU build brings none.
TRITON = 'triton>=3.6; platform_system == "Linux"\n'


def submit(
    runs: Sequence[Path],
    out: Path,
    about: About = NOTHING_SAID,
    rival: Rival = NO_RIVAL,
    judging: Judging = BY_BEST,
) -> tuple[Verdict, list[Entry]]:
    """Write the folder ``out``, whole or not at all.

    Args:
        runs: folders of finished runs that differ in their seeds only, of this code.
        out: a folder to make.
        about: what a person says about the submission.
        rival: the record to beat.
        judging: how the runs are judged.

    Returns:
        the verdict, and the finished runs with the same settings that were not given.

    Raises:
        InputError: the runs differ, are not of this code, or exceed a limit; ``out`` exists, or
            no folder can be made there.
    """
    check_out(out)
    for run in runs:
        if out.resolve().is_relative_to(run.resolve()):
            raise InputError(f"--out {out}: lies in run {run}; choose a folder beside it")
    with Progress(None, None) as progress:
        return _submitted(runs, out, about, rival, judging, progress.line)


def check_out(out: Path) -> None:
    """Raise InputError, before minutes of work, if ``out`` exists or could not be made."""
    if os.path.lexists(out):
        raise InputError(f"{out} exists; choose another --out or remove it")
    above = next(each for each in out.absolute().parents if os.path.lexists(each))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: no folder can be made in {above}; choose another")


def _submitted(
    runs: Sequence[Path], out: Path, about: About, rival: Rival, judging: Judging, say: Say
) -> tuple[Verdict, list[Entry]]:
    """Do as ``submit``, and call ``say`` with a line as each step begins."""
    say("checking the runs")
    entries = sorted(map(Entry.read, runs), key=lambda entry: entry.seed)
    check_alike(entries)
    say("packing the code")
    script = pack(PROJECT, entries[0].settings)
    check_code(entries, script)
    verdict = Verdict.of(entries, rival, judging.method)
    say("checking the runs' data, scores and seconds")
    table = checked(entries, judging.data, about.track)
    first_steps(script, entries[0].settings, say)
    if judging.audit:
        best = min(entries, key=lambda entry: entry.score(verdict.method).bpb)
        say(f"auditing the artifact of seed {best.seed}")
        table += audited(best, judging.data)
    else:
        table += "unknown  C1 to C4: not audited\n"
    say("writing the folder")
    others = other_runs(entries)
    about = about if about.name else replace(about, name=out.name)
    facts = submission(entries, verdict, about, len(script), others)
    files = {
        "submission.json": (json.dumps(facts, indent=2) + "\n").encode(),
        "README.md": readme(facts, entries, verdict).encode(),
        AUDIT: table.encode(),
    }
    write(out, _code(script, entries) | files)
    return verdict, others


def _code(script: bytes, entries: Sequence[Entry]) -> dict[str, bytes]:
    """Return the files of code and logs by name."""
    return {
        SCRIPT: script,
        READABLE: readable(PROJECT, contents(PROJECT, entries[0].settings)).encode(),
        "requirements.txt": requirements().encode(),
        **{f"train_seed{entry.seed}.log": entry.log() for entry in entries},
    }


def requirements() -> str:
    """Return what a CPU or CUDA machine needs to run the script."""
    return (PROJECT / "requirements.txt").read_text(encoding="utf-8") + TRITON


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        folder = Path(beside) / out.name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        folder.rename(out)
