"""What a run came to: its summary, and what a person reads at the end."""

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from artifact.submission.code_size import SCRIPT, Code, OverBudget, budget_line, check_total
from evaluation.scoreboard import Scoreboard
from runtime.run_folder import RunFolder

DIVERGED = (
    "training diverged; the artifact has the best weights that were left; lower the learning rates"
)


def conclude(
    folder: RunFolder, facts: Mapping[str, object], scores: Scoreboard, root: Path, limit: int
) -> int:
    """Count bytes, write the summary and the plot, say where everything is.

    Args:
        folder: of the run, with its artifact.
        facts: about the run, for its summary.
        scores: of the run's end.
        root: of the code that ran.
        limit: bytes of code + artifact.

    Returns:
        the exit code: 0, or 1 over the limit or after a divergence.
    """
    (code, sha256), artifact = Code.of(root, scores.settings), folder.artifact.stat().st_size
    sizes = {"code_bytes": code, "artifact_bytes": artifact, "total_bytes": code + artifact}
    identity = {"code_files": {SCRIPT: code}, "code_sha256": sha256}
    summary = {**facts, **sizes, "size_limit": limit, "scores": scores.rows, **identity}
    # The modules' hashes are as many lines as everything else together.
    folder.log("summary", **{k: v for k, v in summary.items() if k != "code_modules"})
    folder.write_summary(summary)
    scores.progress.phase("finished")
    say = scores.progress.line
    say(scores.table())
    if find_spec("evaluation.displays"):
        from evaluation.displays import show

        show(folder, say)
    for line in told(facts):
        say(line)
    say(budget_line(code, artifact, limit))
    say(f"run folder: {folder.path}")
    try:
        check_total(code, artifact, limit)
    except OverBudget as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if facts.get("diverged"):
        print(f"error: {DIVERGED}", file=sys.stderr)
    return 1 if facts.get("diverged") else 0


def told(facts: Mapping[str, object]) -> Iterator[str]:
    """Yield lines of what is not so in a calm and long run: skipped steps, noise, the choice."""
    skipped, rollbacks = facts.get("skipped_steps"), facts.get("rollbacks")
    if skipped or rollbacks:
        steps = f"{skipped} of {facts.get('steps')} steps were skipped"
        yield f"trouble: {steps}, {rollbacks} times the weights were restored"
    if noise := facts.get("noise_windows"):
        yield f"data: {noise} windows were noise; text of later passes was read in their place"
    losses = facts.get("held_out_nats")
    if isinstance(losses, Mapping) and losses:
        found = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        name = facts.get("exported_weights")
        yield f"exported: {name} weights; nats on training tokens: {found}"
