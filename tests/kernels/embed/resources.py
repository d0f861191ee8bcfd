"""What ``embed`` compiles to: 1024 tokens and 2048 bigram rows of width 512, bf16 activations."""

from kernels.common.rows import row_tile
from kernels.embed.autograd import BACKWARD, FORWARD, embed_backward, embed_forward
from kernels.embed.lookup_keys import BLOCK, lookup_keys_kernel
from kernels.embed.segment_sum import BATCH, PIECE, SLOTS, WARPS, sum_pieces, sum_slots
from tests.kernels.tools.ahead_of_time import Variant

WIDTH = row_tile(512)
TABLES = {"table": "*bf16", "smear_gate": "*fp32"}
SIZES = {"count": "i32", "length": "i32", "eps": "fp32"}
BIGRAM = {"projected": "*bf16", "bigram_scale": "*fp32"}
NO_BIGRAM = {"projected": None, "bigram_scale": None, "BIGRAM_ROWS": None}
GRADIENTS = {"keys": "*i16", "grad": "*bf16", "into_sum": "*bf16", "part_gate": "*fp32"}


def forward(name: str, bos_id: int | None, *, bigram: bool) -> Variant:
    signature = TABLES | SIZES | {"tokens": "*i32", "x": "*bf16"} | (BIGRAM if bigram else {})
    constants = WIDTH | {"ROWS": FORWARD.rows, "BOS": bos_id}
    constants |= {"BIGRAM_ROWS": 2048} if bigram else NO_BIGRAM
    return Variant(name, embed_forward, signature, constants, FORWARD.warps)


def backward(name: str, bos_id: int | None, *, bigram: bool) -> Variant:
    signature = TABLES | SIZES | GRADIENTS | (BIGRAM if bigram else {})
    constants = WIDTH | {"ROWS": BACKWARD.rows, "BOS": bos_id, "VOCABULARY": 1024}
    constants |= {"BIGRAM_ROWS": 2048} if bigram else NO_BIGRAM
    return Variant(name, embed_backward, signature, constants, BACKWARD.warps)


VARIANTS = [
    forward("embed_forward", 1, bigram=True),
    forward("embed_forward without bigram and mask", None, bigram=False),
    backward("embed_backward", 1, bigram=True),
    backward("embed_backward without bigram and mask", None, bigram=False),
    Variant(
        "lookup_keys_kernel",
        lookup_keys_kernel,
        {"tokens": "*i32", "keys": "*i16", "count": "i32", "length": "i32"},
        {"VOCABULARY": 1024, "BIGRAM_ROWS": 2048, "BLOCK": BLOCK},
    ),
    Variant(
        "sum_pieces",
        sum_pieces,
        {"rows": "*bf16", "keys": "*i16", "sources": "*i64", "parts": "*fp32", "total": "i32"},
        {"PIECE": PIECE, "BATCH": BATCH, "C": 512, "PADDED": 512},
        num_warps=2,
    ),
    Variant(
        "sum_slots",
        sum_slots,
        {"parts": "*fp32", "starts": "*i32", "sums": "*fp32"},
        WIDTH | {"PIECE": PIECE, "ROWS": SLOTS},
        WARPS,
    ),
]
