"""What ran: its code by SHA-256, its commit, and what the process opened, connected to, started."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from artifact.submission.code_size import Code, hashes_of
from evaluation.audit.runs import Check
from runtime.records import Environment, Provenance
from runtime.watching import KINDS
from settings import Settings

MOST_NAMES = 3
WATCHED = sorted({*KINDS.values()} - {"made"})


def code(origins: Provenance | None, judged: Path, settings: Settings) -> Check:
    """Compare the code of a run with that of the judge, by SHA-256.

    Modules are compared one by one where both sides are folders, because another version of Python
    packs them otherwise.

    Args:
        origins: what the run's summary says.
        judged: the project's root, or a submission's one file.
        settings: of the run, which the file carries along.
    """
    if origins is None or origins.code_sha256 is None:
        return Check("code", "run", None, "not known: no finished run's summary has its hash")
    changed = (origins.observed or {}).get("code", [])
    if changed:
        return Check("code", "run", False, f"changed while it ran: {listed(changed)}")
    ours, theirs = hashes_of(judged), origins.code_modules or {}
    if ours == theirs:
        return Check("code", "run", True, f"{len(ours)} modules, as in {judged.name}")
    if origins.code_sha256 == Code.of(judged, settings).sha256:
        return Check("code", "run", True, f"as {judged.name} packed")
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    found = f"other code than in {judged.name}: {listed(names)}; check out the run's commit"
    return Check("code", "run", False, found)


def commit(environment: Environment) -> Check:
    """Check that a run's code was committed, so that its commit is what ran."""
    dirty = environment.git_dirty
    if dirty is None:
        return Check("commit", "run", None, "not known: the run had no git checkout")
    found = f"{environment.git_commit}"
    if dirty:
        named = environment.git_changed
        found = "changes that were not committed (git_dirty)" + (f": {named}" if named else "")
    return Check("commit", "run", not dirty, found)


def conduct(of: str, findings: Mapping[str, Sequence[str]] | None) -> Check:
    """Check that a process kept to its folders: no other file, no network, no other program.

    Args:
        of: whose process.
        findings: of `runtime.watching`, by kind.
    """
    if findings is None:
        return Check("files and network", of, None, "not known: nothing was recorded")
    found = [f"{kind}: {listed(each)}" for kind, each in findings.items() if each]
    found += [f"{kind}: not watched to the end" for kind in WATCHED if kind not in findings]
    nothing = "only code, data, the run's folder and Python's own; no network"
    return Check("files and network", of, not found, "; ".join(found) or nothing)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
