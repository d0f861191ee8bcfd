"""Attention's kernels as launched at the real size, and with all options, at head dims 64, 128."""

from typing import Any

from kernels.attention_forward import FORWARD_TILES, Tiles, forward_kernel
from kernels.attention_key_gradients import KEY_TILES, key_gradients_kernel
from kernels.attention_query_gradients import QUERY_TILES, query_gradients_kernel
from kernels.rotary import KEY_ROWS, KEY_WARPS, keys_kernel
from tests.kernels.ahead_of_time import Variant

FP32 = ("gain_ptr", "rope_ptr", "rstd_ptr", "log_sum_ptr", "along_ptr", "delta_ptr", "dgain_ptr")
SCALARS = {"eps": "fp32", "documents_ptr": "*i32"}
# What a kernel does without, by option.
OPTIONS = {
    "plain": ("along_ptr", "gate_ptr", "dgate_ptr", "documents_ptr", "inner_ptr"),
    "xsa": ("gate_ptr", "dgate_ptr", "documents_ptr"),
    "documents": ("along_ptr", "gate_ptr", "dgate_ptr", "inner_ptr"),
    "all": (),
}


def argument_type(name: str) -> str:
    if name in SCALARS:
        return SCALARS[name]
    if name in FP32:
        return "*fp32"
    return "*bf16" if name.endswith("_ptr") else "i32"


def variant(kernel: Any, option: str, head_dim: int, tiles: Tiles) -> Variant:
    missing: dict[str, Any] = {
        name: None
        for name in OPTIONS[option]
        # The keys' kernel always reads the gradient of the softmax's output.
        if name in kernel.arg_names and (name, kernel) != ("inner_ptr", key_gradients_kernel)
    }
    given = {"G": 4, "GROUP": 2, "D": head_dim, "PAIRS": 8, "XSA": option in ("xsa", "all")}
    given |= {"ROWS": tiles.rows, "KEYS": tiles.keys}
    constants = {name: value for name, value in given.items() if name in kernel.arg_names} | missing
    return Variant(
        f"{kernel.__name__} {head_dim} {option}",
        kernel,
        {name: argument_type(name) for name in kernel.arg_names if name not in constants},
        constants,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )


VARIANTS = [
    variant(keys_kernel, "plain", 64, Tiles(KEY_ROWS, 0, KEY_WARPS, 3)),
    *(
        variant(kernel, option, head_dim, table[head_dim])
        for head_dim in (64, 128)
        for kernel, table in (
            (forward_kernel, FORWARD_TILES),
            (query_gradients_kernel, QUERY_TILES),
            (key_gradients_kernel, KEY_TILES),
        )
        for option in (OPTIONS if head_dim == 64 else ("all",))
    ),
]
