"""Attention's kernels as launched at the real size, and with all options: Triton's at head dims 64
and 128, Hopper's at 64."""

from typing import Any

import triton.language as tl

from kernels.attention import (
    backward_dkv,
    backward_dkv_hopper,
    backward_dq,
    backward_dq_hopper,
    backward_prepare,
    backward_prepare_hopper,
    forward,
    forward_hopper,
    rope,
    schedule_hopper,
    visible,
)
from kernels.common import hopper, stationary
from kernels.common.launch import Launch
from tests.kernels.tools.ahead_of_time import Variant

# The inputs of each option.
OPTIONS = {
    "plain": (),
    "xsa": ("xsa",),
    "documents": ("documents",),
    "all": ("xsa", "documents", "gate"),
}
NEAR = "near"  # of Triton's dq: all, and few keys of a position
KEPT = "kept"  # of Triton's forward and dq kernels: all, and kept keys of documents
BF16, FP32, INT = "*bf16", "*fp32", "i32"
HEADS = {"G": tl.constexpr(4), "GROUP": tl.constexpr(2)}
ROPE = rope.Rope(FP32, INT, tl.constexpr(8))
DKV_STATISTICS = backward_dkv.Statistics(FP32, INT)
KEYS = visible.Keys(BF16, BF16, INT)
RING = visible.Ring(BF16, "*i64", INT, INT, INT)


def given(option: str, name: str, kind: str = BF16) -> str | None:
    """Return the type of an input that only some options have."""
    return kind if option in (KEPT, NEAR) or name in OPTIONS[option] else None


def changed(option: str, kind: str = BF16) -> str | None:
    """Return the type of what exists if dout is not dy: with XSA or a gate."""
    return given(option, "xsa", kind) or given(option, "gate", kind)


def problem(option: str) -> visible.Problem:
    return visible.Problem(INT, given(option, "documents", "*i32"), **HEADS)


def variant(kernel: Any, option: str, head_dim: int, launch: Launch, arguments: dict) -> Variant:
    """A Triton kernel, as its launcher calls it."""
    constants = {"D": head_dim, "ROWS": launch.rows, "KEYS": launch.columns}
    constants |= {name: value.value for name, value in HEADS.items()}
    return Variant(
        f"{kernel.__name__} {head_dim} {option}",
        kernel,
        arguments,
        {name: value for name, value in constants.items() if name in kernel.arg_names},
        num_warps=launch.warps,
        num_stages=launch.stages,
        maxnreg=launch.registers,
    )


def rotate_variant() -> Variant:
    heads = rope.Heads(BF16, INT, FP32, BF16, FP32, INT)
    arguments = {"queries": heads, "keys": heads._replace(gain=None), "rope": ROPE}
    arguments |= {"length": INT, "eps": "fp32"}
    return variant(rope.rotate_kernel, "plain", 64, rope.LAUNCH, arguments)


def prepare_variant(head_dim: int, option: str) -> Variant:
    xsa, gate = given(option, "xsa", FP32), given(option, "gate")
    outputs = backward_prepare.Outputs(gate, changed(option), FP32, BF16, INT)
    arguments = {
        "inputs": backward_prepare.Inputs(BF16, BF16, BF16, gate, xsa, INT),
        "problem": problem(option),
        "outputs": outputs,
        "tokens": INT,
        "stats_stride": INT,
    }
    kernel, launch = backward_prepare.backward_prepare_kernel, backward_prepare.LAUNCH[head_dim]
    return variant(kernel, option, head_dim, launch, arguments)


def forward_variant(head_dim: int, option: str) -> Variant:
    arguments = {
        "query_ptr": BF16,
        "keys": KEYS,
        "gate": given(option, "gate"),
        "problem": problem(option),
        "outputs": forward.Outputs(BF16, FP32, given(option, "xsa", FP32), INT),
        "ring": RING if option == KEPT else None,
    }
    table = forward.KEPT_LAUNCH if option == KEPT else forward.LAUNCH
    return variant(forward.forward_kernel, option, head_dim, table[head_dim], arguments)


def dq_variant(head_dim: int, option: str) -> Variant:
    arguments = {
        "inputs": backward_dq.Inputs(BF16, BF16, FP32, FP32, FP32, INT),
        "keys": KEYS,
        "gain": FP32,
        "rope": ROPE,
        "problem": problem(option),
        "outputs": backward_dq.Outputs(BF16, INT, None if option == KEPT else FP32),
        "ring": RING if option == KEPT else None,
    }
    table = backward_dq.NEAR_LAUNCH if option == NEAR else backward_dq.LAUNCH
    return variant(backward_dq.backward_dq_kernel, option, head_dim, table[head_dim], arguments)


def dkv_variant(head_dim: int, option: str) -> Variant:
    xsa = tl.constexpr("xsa" in OPTIONS[option])
    arguments = {
        "inputs": backward_dkv.Inputs(BF16, BF16, FP32, FP32, INT),
        "keys": KEYS,
        "statistics": DKV_STATISTICS,
        "rope": ROPE,
        "problem": problem(option),
        "outputs": backward_dkv.Outputs(BF16, BF16, INT, xsa),
    }
    kernel, launch = backward_dkv.backward_dkv_kernel, backward_dkv.LAUNCH[head_dim]
    return variant(kernel, option, head_dim, launch, arguments)


def tile(rows: int) -> str:
    return f"tensordesc<bf16{[rows, 64]},{hopper.TILE_LAYOUT!r}>"


def window(rows: int) -> str:
    group = HEADS["GROUP"].value
    return f"tensordesc<bf16{[1, rows // group, group, 64]},{hopper.WINDOW_LAYOUT!r}>"


def vector(rows: int) -> str:
    return f"tensordesc<fp32{[1, rows]},{hopper.VECTOR_LAYOUT!r}>"


def hopper_variant(kernel: Any, option: str, launch: Launch, arguments: dict) -> Variant:
    """A Gluon kernel, as its launcher calls it."""
    documents = given(option, "documents", "*i32")
    sizes = INT, INT, INT
    arguments["problem"] = schedule_hopper.Problem(*sizes, documents, documents, **HEADS)
    constants = {"STAGES": launch.stages}
    name = f"hopper {kernel.__name__} {option}"
    return Variant(name, kernel, arguments, constants, num_warps=launch.warps, specialised=True)


def hopper_forward_variant(option: str) -> Variant:
    launch = forward_hopper.LAUNCH
    xsa, gate = given(option, "xsa", FP32), given(option, "gate")
    arguments = {
        "query_desc": tile(hopper.WARPGROUP_ROWS),
        "key_desc": tile(launch.columns),
        "v_desc": tile(launch.columns),
        "outputs": forward_hopper.Outputs(BF16, FP32, xsa, BF16, gate, INT, INT),
    }
    return hopper_variant(forward_hopper.forward_kernel, option, launch, arguments)


def hopper_prepare_variant(option: str) -> Variant:
    xsa, gate = given(option, "xsa", FP32), given(option, "gate")
    block = [stationary.ROWS.value, stationary.DEPTH.value]
    sizes = dict.fromkeys(("rows", "stats_stride"), INT)
    arguments = {
        "doutput_NC": f"tensordesc<bf16{block},{stationary.KEPT_BY_COLUMN.value!r}>",
        "weight": BF16,
        "inputs": backward_prepare.Inputs(None, BF16, BF16, gate, xsa, INT),
        "problem": problem(option),
        "outputs": backward_prepare.Outputs(gate, BF16, FP32, BF16, INT),
        **sizes,
    }
    kernel = backward_prepare_hopper.backward_prepare_kernel
    constants = {"WIDTH": stationary.WIDEST, "STAGES": stationary.STAGES}
    name, unaligned = f"hopper backward_prepare_kernel {option}", frozenset(sizes)
    return Variant(name, kernel, arguments, constants, unaligned=unaligned)


def hopper_dq_variant(option: str) -> Variant:
    launch = backward_dq_hopper.LAUNCH
    arguments = {
        "dout_desc": window(hopper.WARPGROUP_ROWS),
        "query_desc": tile(hopper.WARPGROUP_ROWS),
        "key_desc": tile(launch.columns),
        "v_desc": tile(launch.columns),
        "statistics": backward_dq_hopper.Statistics(FP32, FP32, FP32, INT),
        "gain": FP32,
        "rope": ROPE,
        "outputs": backward_dq_hopper.Outputs(BF16, INT, FP32),
    }
    return hopper_variant(backward_dq_hopper.backward_dq_kernel, option, launch, arguments)


def hopper_dkv_variant(option: str) -> Variant:
    launch = backward_dkv_hopper.LAUNCH
    xsa = tl.constexpr("xsa" in OPTIONS[option])
    arguments = {
        "query_desc": tile(launch.rows),
        "dout_desc": window(launch.rows),
        "lse_desc": vector(launch.rows),
        "delta_desc": vector(launch.rows),
        "key_desc": tile(hopper.WARPGROUP_ROWS),
        "v_desc": tile(hopper.WARPGROUP_ROWS),
        "statistics": backward_dkv_hopper.Statistics(FP32, INT),
        "rope": ROPE,
        "outputs": backward_dkv_hopper.Outputs(BF16, BF16, INT, xsa),
    }
    return hopper_variant(backward_dkv_hopper.backward_dkv_kernel, option, launch, arguments)


VARIANTS = [
    *(make(head_dim, KEPT) for head_dim in (64, 128) for make in (forward_variant, dq_variant)),
    dq_variant(64, NEAR),
    *(prepare_variant(head_dim, option) for head_dim in (64, 128) for option in OPTIONS),
    rotate_variant(),
    *(
        make(head_dim, option)
        for head_dim in (64, 128)
        for make in (forward_variant, dq_variant, dkv_variant)
        for option in (("plain", "all") if head_dim == 64 else ("all",))
    ),
    *(
        make(option)
        for make in (
            hopper_forward_variant,
            hopper_prepare_variant,
            hopper_dq_variant,
            hopper_dkv_variant,
        )
        for option in OPTIONS
    ),
]
