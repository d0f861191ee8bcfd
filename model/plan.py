"""The order in which a network visits its layers, as a table. Imports no torch.

A visit is one pass through one layer. A layer in ``loop_layers`` is visited several times, each
time with the same weights. The first half of the visits are the U-net's encoder; each visit of the
second half takes the output of its mirror image in the first half as a skip.
"""

from typing import NamedTuple

from model.config import Architecture


class Visit(NamedTuple):
    """One pass through one layer.

    Attributes:
        layer: whose weights.
        block: key of ``model.blocks.BLOCKS``: "serial" or "parallel".
        skip: number of the earlier visit whose output enters here; None: no skip enters.
        skip_row: row of ``skip_weight`` that scales it.
        window: tokens that a position sees, itself included; None: all before it.
        documents: whether a position sees its own document only.
        exclude_self: whether attention excludes each position's own value direction (XSA).
    """

    layer: int
    block: str = "serial"
    skip: int | None = None
    skip_row: int | None = None
    window: int | None = None
    documents: bool = False
    exclude_self: bool = False


Plan = tuple[Visit, ...]


def plan(
    config: Architecture,
    loops: int | None = None,
    window: int | None = None,
    documents: bool | None = None,
) -> Plan:
    """Return the visits of a network, in order.

    Args:
        config: the architecture, whose own values stand for arguments that are None.
        loops: how many more times the ``loop_layers`` are visited, at most ``num_loops``.
        window: tokens that a position sees, itself included; 0: all before it. ``near_layers``
            see no more than ``near_window``.
        documents: whether a position sees its own document only.

    Raises:
        ValueError: the network has no parameters for so many loops.
    """
    loops = config.num_loops if loops is None else loops
    if not 0 <= loops <= config.num_loops:
        raise ValueError(f"{loops} loops, but the network has num_loops {config.num_loops}")
    window = config.window if window is None else window
    documents = config.document_mask if documents is None else documents
    order = layers_in_order(config, loops)
    encoder = len(order) // 2
    visits = []
    for number, layer in enumerate(order):
        row = number - encoder
        has_skip = 0 <= row < encoder
        visits.append(
            Visit(
                layer,
                block="parallel" if layer in config.parallel_layers else "serial",
                skip=encoder - 1 - row if has_skip else None,
                skip_row=row if has_skip else None,
                window=seen_by(config, layer, window),
                documents=documents,
                exclude_self=layer >= config.num_layers - config.xsa_last_n,
            )
        )
    return tuple(visits)


def seen_by(config: Architecture, layer: int, window: int) -> int | None:
    """Return how many tokens a position sees in a layer; None: all before it."""
    near = config.near_window if layer in config.near_layers else 0
    return min(filter(None, (window, near)), default=None)


def layers_in_order(config: Architecture, loops: int) -> list[int]:
    """Return the layer of each visit: up to the last loop layer, the loops, the other layers."""
    after = config.loop_layers[-1] + 1 if config.loop_layers else config.num_layers
    return [*range(after), *config.loop_layers * loops, *range(after, config.num_layers)]
