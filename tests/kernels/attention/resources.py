"""Attention's kernels as launched at the real size, and with all options: Triton's at head dims 64
and 128, Hopper's at 64."""

from typing import Any

from kernels.attention import backward_dkv_hopper as hopper_key_gradients
from kernels.attention import backward_dq_hopper as hopper_query_gradients
from kernels.attention import forward_hopper as hopper_forward
from kernels.attention import schedule_hopper as hopper
from kernels.attention.backward_dkv import KEY_TILES, key_gradients_kernel
from kernels.attention.backward_dq import QUERY_TILES, query_gradients_kernel
from kernels.attention.backward_prepare import ELEMENTS, WARPS, output_gradients_kernel
from kernels.attention.forward import FORWARD_TILES, Tiles, forward_kernel
from kernels.attention.rope import TURN_ROWS, TURN_WARPS, turn_kernel
from tests.kernels.tools.ahead_of_time import Variant

FP32 = ("gain_ptr", "rope_ptr", "rstd_ptr", "log_sum_ptr", "along_ptr", "delta_ptr", "dgain_ptr")
FP32 += ("key_rstd_ptr",)
SCALARS = {"eps": "fp32", "documents_ptr": "*i32"}
SIZES = {"G": 4, "GROUP": 2, "PAIRS": 8}
# What a kernel does without, by option.
OPTIONS = {
    "plain": ("along_ptr", "gate_ptr", "dgate_ptr", "documents_ptr", "inner_ptr"),
    "xsa": ("gate_ptr", "dgate_ptr", "documents_ptr"),
    "documents": ("along_ptr", "gate_ptr", "dgate_ptr", "inner_ptr"),
    "all": (),
}
PRODUCTS = (
    query_gradients_kernel,
    key_gradients_kernel,
    hopper_query_gradients.query_gradients_kernel,
    hopper_key_gradients.key_gradients_kernel,
)
HOPPER_KERNELS = (
    (hopper_forward, hopper_forward.forward_kernel),
    (hopper_query_gradients, hopper_query_gradients.query_gradients_kernel),
    (hopper_key_gradients, hopper_key_gradients.key_gradients_kernel),
)
KEY_KERNELS = (key_gradients_kernel, hopper_key_gradients.key_gradients_kernel)


def argument_type(name: str) -> str:
    if name in SCALARS:
        return SCALARS[name]
    if name in FP32:
        return "*fp32"
    return "*bf16" if name.endswith("_ptr") else "i32"


def missing(kernel: Any, option: str) -> dict[str, Any]:
    """Arguments that are None, and whether XSA's share is added."""
    absent: dict[str, Any] = {
        name: None
        for name in OPTIONS[option]
        # The products' kernels always read the gradient of the softmax's output.
        if name in kernel.arg_names and (name != "inner_ptr" or kernel not in PRODUCTS)
    }
    if "XSA" in kernel.arg_names:
        absent["XSA"] = option in ("xsa", "all")
    return absent


def variant(kernel: Any, option: str, head_dim: int, tiles: Tiles) -> Variant:
    """A Triton kernel, as its launcher calls it."""
    given = {**SIZES, "D": head_dim, "ROWS": tiles.rows, "KEYS": tiles.keys}
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    constants |= missing(kernel, option)
    return Variant(
        f"{kernel.__name__} {head_dim} {option}",
        kernel,
        {name: argument_type(name) for name in kernel.arg_names if name not in constants},
        constants,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )


def descriptor(block: list[int], layout: Any, dtype: str = "bf16") -> str:
    return f"tensordesc<{dtype}{block},{layout!r}>"


def hopper_variant(module: Any, kernel: Any, option: str) -> Variant:
    """A Gluon kernel: one warpgroup's descriptors are its rows, the others are the ring's."""
    ring = getattr(module, "KEYS", None) or module.ROWS
    own, travels = [hopper.WARPGROUP_ROWS, 64], [ring.rows, 64]
    travelling = ("query_desc",) if kernel in KEY_KERNELS else ("key_desc", "v_desc")
    group = SIZES["GROUP"]
    types = {name: descriptor(own, hopper.TILE_LAYOUT) for name in kernel.arg_names}
    types |= {name: descriptor(travels, hopper.TILE_LAYOUT) for name in travelling}
    for name in ("inner_desc", "y_desc"):
        travels = name == "inner_desc" and kernel in KEY_KERNELS
        rows = ring.rows if travels else hopper.WARPGROUP_ROWS
        types[name] = descriptor([1, rows // group, group, 64], hopper.WINDOW_LAYOUT)
    for name in ("log_sum_desc", "delta_desc"):
        types[name] = descriptor([1, ring.rows], hopper.VECTOR_LAYOUT, "fp32")
    given = {
        **SIZES,
        "D": 64,
        ("ROWS" if kernel in KEY_KERNELS else "KEYS"): ring.rows,
        "STAGES": ring.stages,
        "PART": getattr(module, "PART", None),
        "CONSUMERS": hopper.CONSUMERS,
        "CONSUMER_REGISTERS": hopper.CONSUMER_REGISTERS,
        "LOADER_REGISTERS": hopper.LOADER_REGISTERS,
    }
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    constants |= missing(kernel, option)
    signature = {
        name: types[name] if name.endswith("_desc") else argument_type(name)
        for name in kernel.arg_names
        if name not in constants
    }
    name = f"hopper {kernel.__name__} {option}"
    return Variant(name, kernel, signature, constants, specialised=True)


VARIANTS = [
    *(
        variant(output_gradients_kernel, option, head_dim, Tiles(ELEMENTS // head_dim, 0, WARPS, 3))
        for head_dim in (64, 128)
        for option in OPTIONS
    ),
    variant(turn_kernel, "plain", 64, Tiles(TURN_ROWS, 0, TURN_WARPS, 3)),
    *(
        variant(kernel, option, head_dim, table[head_dim])
        for head_dim in (64, 128)
        for kernel, table in (
            (forward_kernel, FORWARD_TILES),
            (query_gradients_kernel, QUERY_TILES),
            (key_gradients_kernel, KEY_TILES),
        )
        for option in (("plain", "all") if head_dim == 64 else ("all",))
    ),
    *(
        hopper_variant(module, kernel, option)
        for module, kernel in HOPPER_KERNELS
        for option in OPTIONS
    ),
]
