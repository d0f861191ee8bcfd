"""Training does not see the validation tokens: in another order they give the same artifact."""

from pathlib import Path

from artifact.submission.first_steps import reads_validation
from artifact.submission.packed import pack
from evaluation.audit.runs import Check
from settings import Settings


def validation_unseen(code: Path, settings: Settings) -> Check:
    """Train two steps twice, on a CPU, with the validation tokens in two orders.

    Whatever more steps do with the validation tokens is not seen.

    Args:
        code: the project's root, or a submission's one file.
        settings: of the run, which the file carries along.

    Raises:
        InputError: the code does not train.
    """
    script = code.read_bytes() if code.is_file() else pack(code, settings)
    if reads_validation(script, settings):
        found = "another order of the validation tokens gave another artifact"
        return Check("validation unseen", "training", False, found)
    found = "two steps with the validation tokens in two orders gave the same artifact"
    return Check("validation unseen", "training", True, found)
