"""FlashAttention of the package that is installed, with documents as it takes them."""

import torch
from torch import Tensor

from kernels.attention.reference import Attend
from kernels.peers import missing, of

# Cumulative lengths have room for so many documents, or a shortest mean length. Empty ones cost
# FlashAttention blocks that do nothing, and buffers of a tile each.
FEWEST_DOCUMENTS, SHORTEST_MEAN = 1024, 128


def flash(compiled: bool = False) -> Attend:
    """Return the newest FlashAttention that is installed: 4, 3 or 2."""
    rows = [peer for peer in of("attention") if peer.compiles or not compiled]
    function = next((found for peer in rows if (found := peer.load()) is not None), None)
    if function is None:
        raise ModuleNotFoundError(
            f"attention backend flash: {missing(rows)}; or choose auto, cudnn or sdpa"
        )

    def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
        lengths = None if documents is None else cumulative_lengths(documents)
        return function(q, k, v, lengths)

    return attend


def cumulative_lengths(documents: Tensor) -> Tensor:
    """Return documents as FlashAttention takes sequences of variable length.

    The shape depends on B and T alone, and the host does not wait for the device. Documents of no
    tokens at the end fill the rest.

    Args:
        documents: (2, B, T) int32 from ``reference.document_bounds``.

    Returns:
        (N + 1,) int32: 0, then the position among B T that ends each document.

    Raises:
        RuntimeError: there are more documents than room, or bounds are of a sliding window; on a
            GPU when the device gets there.
    """
    start = documents[0]
    B, T = start.shape
    most = min(B * T, FEWEST_DOCUMENTS + B * T // SHORTEST_MEAN)
    begins = start == torch.arange(T, dtype=torch.int32, device=start.device)
    number = begins.flatten().cumsum(0)
    continued = begins[:, 1:] | (start[:, 1:] == start[:, :-1])
    torch._assert_async(
        (number[-1] <= most) & begins[:, 0].all() & continued.all(),
        f"attention backend flash takes at most {most} documents and no sliding window",
    )
    position = torch.arange(B * T, dtype=torch.int32, device=start.device)
    # A document's first token writes where the one before ends; all others the end, to no effect.
    entry = torch.where(begins.flatten(), number - 1, most).clamp_max(most)
    ends = torch.full((most + 1,), B * T, dtype=torch.int32, device=start.device)
    return ends.scatter(0, entry, torch.where(begins.flatten(), position, B * T))
