"""Training does not see the validation tokens: in another order they give the same artifact."""

from pathlib import Path

from artifact.submission.first_steps import reads_validation
from artifact.submission.packed import pack
from errors import InputError
from evaluation.audit.runs import Check
from settings import Settings

# Sizes with which two steps and an export take a second; each part of the network is there.
SMALL = Settings(
    vocab_size=300,
    bos_id=1,
    num_layers=2,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    rope_dims=4,
    xsa_last_n=1,
    ve_layers=[1],
    ve_dim=8,
    bigram_vocab_size=64,
    bigram_dim=8,
)
RULE, OF = "validation unseen", "training"


def validation_unseen(code: Path) -> Check:
    """Train a small network twice on a CPU, with the validation tokens in two orders.

    Two steps each: whatever more do with the validation tokens is not seen.

    Args:
        code: the project's root, or a submission's one file.
    """
    try:
        script = code.read_bytes() if code.is_file() else pack(code, SMALL)
        reads = reads_validation(script, SMALL)
    except InputError as error:
        return Check(RULE, OF, False, str(error))
    order = "two steps with the validation tokens in two orders gave"
    return Check(RULE, OF, not reads, f"{order} {'two artifacts' if reads else 'one artifact'}")
