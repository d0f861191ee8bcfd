"""C2, normalised: the probabilities of all tokens sum to one."""

import numpy as np

from evaluation.audit.runs import Check

RULE = "C2 normalised"
SUM_ERROR = 1e-4  # of probabilities


def normalised(name: str, *sums: np.ndarray) -> Check:
    """Judge sums of the probabilities of all tokens.

    Args:
        name: of the method.
        sums: each (R, S) fp64, at R contexts' last S places.
    """
    places = sum(each.size for each in sums)
    if not places:
        return Check(RULE, name, None, "nothing was learned: the text is too short")
    error = max(float(np.abs(each - 1).max()) for each in sums)
    shapes = " and ".join(f"{rows} x {scored}" for rows, scored in (each.shape for each in sums))
    found = f"{shapes} places, sums off by {error:.1e} at most ({SUM_ERROR:.0e} allowed)"
    return Check(RULE, name, error <= SUM_ERROR, found)
