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
    near_window: int | None = None,
) -> Plan:
    """Return the visits of a network, in order.

    Args:
        config: the architecture, whose own values stand for arguments that are None.
        loops: how many more times the ``loop_layers`` are visited, at most ``num_loops``.
        window: tokens that a position sees, itself included; 0: all before it.
        documents: whether a position sees its own document only.
        near_window: tokens that it sees at most in ``near_layers``; 0: no fewer.

    Raises:
        ValueError: the network has no parameters for so many loops.
    """
    loops = config.num_loops if loops is None else loops
    if not 0 <= loops <= config.num_loops:
        raise ValueError(f"{loops} loops, but the network has num_loops {config.num_loops}")
    window = config.window if window is None else window
    documents = config.document_mask if documents is None else documents
    near_window = config.near_window if near_window is None else near_window
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
                window=seen(window, near_window if layer in config.near_layers else 0),
                documents=documents,
                exclude_self=layer >= config.num_layers - config.xsa_last_n,
            )
        )
    return tuple(visits)


def seen(*windows: int) -> int | None:
    """Return the smallest window that is not 0; None, for all before a position, if all are."""
    return min(filter(None, windows), default=None)


def layers_in_order(config: Architecture, loops: int) -> list[int]:
    """Return the layer of each visit: up to the last loop layer, the loops, the other layers."""
    after = config.loop_layers[-1] + 1 if config.loop_layers else config.num_layers
    return [*range(after), *config.loop_layers * loops, *range(after, config.num_layers)]
