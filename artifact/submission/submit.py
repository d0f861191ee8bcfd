"""A contest folder of finished runs: ``train_gpt.py``, logs, scores and what they are worth.

The layout is parameter-golf's: ``records/<track>/<date>_<name>/`` with ``README.md``,
``submission.json``, ``train_gpt.py`` and the logs of several seeds.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from artifact.submission.accounts import audited, check_alike, check_code, checked
from artifact.submission.asked import BY_BEST, NO_RIVAL, NOTHING_SAID, About, Judging, Rival
from artifact.submission.bundle import contents, readable
from artifact.submission.code_size import SCRIPT
from artifact.submission.entry import Entry, other_runs
from artifact.submission.first_steps import first_steps
from artifact.submission.packed import pack
from artifact.submission.page import AUDIT, READABLE, readme, submission
from artifact.submission.verdict import Verdict
from errors import InputError
from files import PROJECT

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
        InputError: the runs differ, are not of this code, or exceed a limit; ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it")
    for run in runs:
        if out.resolve().is_relative_to(run.resolve()):
            raise InputError(f"--out {out}: lies in run {run}; choose a folder beside it")
    entries = sorted(map(Entry.read, runs), key=lambda entry: entry.seed)
    check_alike(entries)
    script = pack(PROJECT, entries[0].settings)
    check_code(entries, script)
    verdict = Verdict.of(entries, rival, judging.method)
    table = checked(entries, judging.data, about.track)
    first_steps(script, entries[0].settings)
    best = min(entries, key=lambda entry: entry.score(verdict.method).bpb)
    table += audited(best, judging.data) if judging.audit else "unknown  C1 to C4: not audited\n"
    others = other_runs(entries)
    about = about if about.name else replace(about, name=out.name)
    facts = submission(entries, verdict, about, len(script), others)
    files = {
        SCRIPT: script,
        READABLE: readable(PROJECT, contents(PROJECT, entries[0].settings)).encode(),
        "requirements.txt": requirements().encode(),
        "submission.json": (json.dumps(facts, indent=2) + "\n").encode(),
        "README.md": readme(facts, entries, verdict).encode(),
        AUDIT: table.encode(),
        **{f"train_seed{entry.seed}.log": entry.log() for entry in entries},
    }
    write(out, files)
    return verdict, others


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
