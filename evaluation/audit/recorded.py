"""C4, recorded: each score of a run is the sum of what the run keeps of its targets."""

import math
from collections.abc import Iterator

import numpy as np

from evaluation.audit.accounting import SAME, fault_of_row
from evaluation.audit.case import OTHERS, Case, Method
from evaluation.audit.prefix import learned
from evaluation.audit.runs import Check
from runtime.records import Row

RULE = "C4 recorded"
ANEW = 1e-3  # of a score that another device or another number of ranks computed


def recorded(case: Case) -> Iterator[Check]:
    """Compare every row of the run's summary with its own numbers, and the artifact's with nats."""
    methods = {method.row: method for method in case.methods}
    named = {f"{weights}, {method.name}" for weights in OTHERS for method in case.methods}
    if not case.rows:
        yield Check(RULE, "run", None, "not known: no scores of a run are in its folder")
    for name, row in case.rows.items():
        if name not in methods and name not in named:
            yield Check(RULE, name, False, "the run claims a score that no method here makes")
        elif fault := fault_of_row(row):
            yield Check(RULE, name, False, fault)
        elif name in methods:
            yield of_method(case, methods[name], row)


def of_method(case: Case, method: Method, row: Row) -> Check:
    """Compare a row with the nats of its targets, over the judge's own count of bytes."""
    kept, counted, targets = case.recorded(method), case.counted(method), case.targets(method)
    if kept is not None:
        if not (np.isfinite(kept).all() and (kept >= 0).all()):
            return Check(RULE, method.row, False, "the run's record holds what are no nats")
        fault = fault_of_sum(row, kept, counted, SAME)
        if fault or not (method.learns or case.elsewhere()):
            found = f"{targets:,} targets, {counted:,} bytes: bpb {row.bpb:.6f}"
            return Check(RULE, method.row, not fault, fault or found)
    again = learned(case, method).of_targets if method.learns else case.audited(method)
    fault = fault_of_sum(row, again, counted, ANEW)
    found = f"{targets:,} targets scored anew, {counted:,} bytes: bpb {row.bpb:.6f} as claimed"
    return Check(RULE, method.row, not fault, fault or found)


def fault_of_sum(row: Row, nats: np.ndarray, counted: int, allowed: float) -> str:
    """Say how a row is not that of nats (tokens,) and bytes; empty if it is, but for ``allowed``.

    Args:
        allowed: relative difference of bits per byte.
    """
    total = nats.sum(dtype=np.float64)
    bpb = total / math.log(2) / counted
    same = (row.tokens, row.bytes) == (len(nats), counted)
    if same and math.isclose(bpb, row.bpb, rel_tol=allowed):
        return ""
    found = f"bpb {row.bpb:.6f} of {row.tokens:,} tokens and {row.bytes:,} bytes, but the scores "
    return found + f"make {bpb:.6f} of {len(nats):,} and {counted:,}"
