"""C4, one pass: each target once, in order, and the score is the sum of the recorded scores."""

import numpy as np

from data.tokenizer import ByteTable
from evaluation.audit.runs import Baseline, Check

RULE = "C4 one pass"


def one_pass(name: str, baseline: Baseline, units: np.ndarray, byte_table: ByteTable) -> Check:
    """Check the order of the recorded scores, and their sums.

    Args:
        name, baseline, units: as for `evaluation.audit.score_first.score_before_update`.
        byte_table: of the tokenizer; bytes are counted anew, on the host.
    """
    counted = int(byte_table.count(baseline.tokens[:-1], baseline.tokens[1:]).sum())
    fault = fault_of_order(baseline, units) or fault_of_sums(baseline, counted)
    found = f"{baseline.targets} targets, {counted} bytes, each once, in order"
    return Check(RULE, name, not fault, fault or found)


def fault_of_order(baseline: Baseline, units: np.ndarray) -> str:
    """Say which targets are not scored once or in their unit's order; empty if all are."""
    positions = baseline.seen.positions
    times = np.bincount(positions, minlength=baseline.targets + 1)[1:]
    if (times != 1).any() or len(positions) != baseline.targets:
        return f"{(times == 0).sum()} targets without a score, {(times > 1).sum()} with several"
    by_unit = np.argsort(units[positions], kind="stable")
    steps, same = np.diff(positions[by_unit]), np.diff(units[positions][by_unit]) == 0
    return "a target was scored after one that follows it" if (steps[same] < 1).any() else ""


def fault_of_sums(baseline: Baseline, counted: int) -> str:
    """Say how the score is not that of ``counted`` bytes and the recorded nats; empty if it is."""
    seen, targets = baseline.seen, baseline.targets
    row, mean = seen.row, seen.nats.mean()
    bpb = mean * targets / np.log(2) / counted
    same_counts = (row["tokens"], row["bytes"]) == (targets, counted)
    if not np.array_equal(seen.of_targets, baseline.nats[1:].astype(np.float32), equal_nan=True):
        return "what the run keeps of its scores is not what it scored"
    if same_counts and np.allclose([row["nats"], row["bpb"]], [mean, bpb], rtol=1e-6, atol=0):
        return ""
    found = f"bpb {row['bpb']:.6f} of {row['tokens']} tokens and {row['bytes']} bytes, but the "
    return found + f"scores make {bpb:.6f} of {targets} and {counted}"
