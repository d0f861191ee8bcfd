"""What ``embed`` compiles to: 1024 tokens and 2048 bigram rows of width 512, bf16 activations."""

from kernels.common.rows import row_tile
from kernels.embed import backward as embed_backward
from kernels.embed import forward as embed_forward
from kernels.embed import window
from kernels.embed.forward import Tables, Text
from kernels.embed.lookup_keys import BLOCK, lookup_keys_kernel
from kernels.embed.segment_sum import LAUNCH, sum_pieces, sum_slots
from tests.kernels.tools.ahead_of_time import Variant

BIGRAM = Tables("*bf16", "*bf16", "*fp32", "*fp32", 2048)
NO_BIGRAM = BIGRAM._replace(projected=None, bigram_scale=None, BIGRAM_ROWS=None)
KEYS = {"tokens": "*i32", "keys": "*i16", "count": "i32", "length": "i32"}
PIECES, SLOTS = LAUNCH["pieces"], LAUNCH["slots"]


def forward(
    name: str, bos_id: int | None, tables: Tables, vocabulary: int | None = None
) -> Variant:
    launch, ids = embed_forward.LAUNCH, "*i32" if vocabulary is None else "*i16"
    signature = {
        "text": Text(ids, "i32", "i32", bos_id, vocabulary),
        "tables": tables,
        "x": "*bf16",
        "eps": "fp32",
        "tile": row_tile(512, launch.rows),
    }
    return Variant(name, embed_forward.embed_forward, signature, {}, launch.warps)


def backward(name: str, bos_id: int | None, tables: Tables) -> Variant:
    launch = embed_backward.LAUNCH
    signature = {
        "text": Text("*i16", "i32", "i32", bos_id),
        "tables": tables,
        **dict.fromkeys(("grad", "into_sum"), "*bf16"),
        "partial_gate": "*fp32",
        "eps": "fp32",
        "tile": row_tile(512, launch.rows),
    }
    kernel, constants = embed_backward.embed_backward, {"VOCABULARY": 1024}
    return Variant(name, kernel, signature, constants, launch.warps)


def window_variants(name: str, bos_id: int | None, tables: Tables) -> list[Variant]:
    tiles = {"tile": row_tile(512, 1), "near": window.near_tile(512, 12)}
    common = {"tables": tables, "scale": "*fp32", "eps": "fp32", **tiles}
    into = {"text": Text("*i32", "i32", "i32", bos_id), "x": "*bf16"}
    back = {
        "text": Text("*i16", "i32", "i32", bos_id),
        **dict.fromkeys(("grad", "into_sum"), "*bf16"),
        "partial": "*fp32",
    }
    return [
        Variant(
            f"embed_window_forward{name}",
            window.embed_window_forward,
            common | into,
            {"WINDOW": 12},
            window.LAUNCH["forward"].warps,
        ),
        Variant(
            f"embed_window_backward{name}",
            window.embed_window_backward,
            common | back,
            {"WINDOW": 12, "VOCABULARY": 8192, "STAGES": window.LAUNCH["backward"].stages},
            window.LAUNCH["backward"].warps,
            maxnreg=window.LAUNCH["backward"].registers,
        ),
    ]


VARIANTS = [
    *window_variants("", 1, NO_BIGRAM),
    *window_variants(" with bigram, without mask", None, BIGRAM),
    forward("embed_forward", 1, BIGRAM),
    forward("embed_forward without bigram and mask", None, NO_BIGRAM),
    forward("embed_forward with edges", 1, BIGRAM, 1024),
    backward("embed_backward", 1, BIGRAM),
    backward("embed_backward without bigram and mask", None, NO_BIGRAM),
    Variant(
        "lookup_keys_kernel",
        lookup_keys_kernel,
        KEYS | {"edges": None},
        {"VOCABULARY": 1024, "BIGRAM_ROWS": 2048, "EDGES": 0, "BLOCK": BLOCK},
    ),
    *(
        Variant(
            f"lookup_keys_kernel with {edges:,} edges",
            lookup_keys_kernel,
            KEYS | {"edges": "*i32"},
            {"VOCABULARY": 1024, "BIGRAM_ROWS": 2048, "EDGES": edges, "BLOCK": BLOCK},
        )
        for edges in (2046, 1536)
    ),
    Variant(
        "sum_pieces",
        sum_pieces,
        {"rows": "*bf16", "keys": "*i16", "sources": "*i64", "parts": "*fp32", "total": "i32"},
        {"PIECE": PIECES.rows, "BATCH": PIECES.depth, "C": 512, "PADDED": 512},
        num_warps=2,
    ),
    Variant(
        "sum_slots",
        sum_slots,
        {"parts": "*fp32", "starts": "*i32", "sums": "*fp32"},
        {"PIECE": PIECES.rows, "BATCH": SLOTS.depth, "C": 512, "PADDED": 512},
        num_warps=4,
    ),
]
