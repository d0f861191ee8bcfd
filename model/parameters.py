"""Which of a network's parameters an artifact holds."""

from torch import nn

from model.gpt import GPT


def exported(model: GPT) -> dict[str, nn.Parameter]:
    """Return the parameters that a score depends on, by name: all but the MTP heads."""
    return {name: p for name, p in model.named_parameters() if not name.startswith("mtp")}
