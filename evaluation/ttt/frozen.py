"""What test-time training may freeze and share. Without torch, so that a run checks it first."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from errors import InputError
from model.config import Architecture
from model.parameters import parameters
from settings import Settings
from settings.ttt import TttSettings


def check_ttt(settings: Settings, ranks: int) -> None:
    """Refuse test-time training that network or ranks cannot have; raises as `check_learning`."""
    if settings.ttt_enabled and settings.ttt_method != "lora":
        check_learning(settings, settings, settings.eval_seq_len, ranks)


def check_learning(settings: TttSettings, config: Architecture, length: int, ranks: int) -> None:
    """Refuse to train all weights where that is impossible.

    Args:
        settings: of the method.
        config: the network's.
        length: tokens of a window.
        ranks: that share each batch.

    Raises:
        InputError: a layer or a parameter to freeze does not exist, none is left to learn, or the
            ranks cannot share a batch evenly.
    """
    check_names(settings.ttt_freeze, [s.name for s in parameters(config) if s.storage != "none"])
    blocks, layers = settings.ttt_freeze_blocks, config.num_layers
    if blocks > layers:
        raise InputError(f"ttt_freeze_blocks {blocks}, but the network has {layers} layers")
    batch = batch_of(settings, length)
    if batch % ranks:
        raise InputError(
            f"a TTT batch of {batch} windows cannot be shared by {ranks} ranks; "
            "choose --ttt-chunk-tokens and --ttt-batch-seqs that can"
        )


def check_names(names: Sequence[str], weights: Sequence[str]) -> None:
    """Refuse to freeze parameters that do not exist, or all of them."""
    unknown = sorted(set(names) - set(weights))
    if unknown:
        raise InputError(
            f"ttt_freeze: no parameter {', '.join(unknown)}; there are: {', '.join(weights)}"
        )
    if len(set(names)) == len(weights):
        raise InputError("ttt_freeze names all parameters; leave one to learn")


def batch_of(settings: TttSettings, length: int) -> int:
    """Return how many windows of ``length`` tokens a step takes, over all ranks."""
    return min(settings.ttt_chunk_tokens // length, settings.ttt_batch_seqs)


def frozen_rows(config: Architecture, blocks: int) -> dict[str, list[slice]]:
    """Return by parameter the parts of axis 0 that belong to the first ``blocks`` layers."""
    return {
        spec.name: list(runs(of.layer < blocks for of in spec.slices))
        for spec in parameters(config)
    }


def runs(frozen: Iterable[bool]) -> Iterator[slice]:
    """Yield each run of true values, as few slices as possible."""
    begin = 0
    for value, run in groupby(frozen):
        end = begin + len(list(run))
        if value:
            yield slice(begin, end)
        begin = end
