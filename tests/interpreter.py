"""Triton's interpreter without the work whose result it throws away: three quarters of its time.

It computes the same values, but rounds to fp8 as a GPU does. Each part below names what Triton 3.6
does instead; an interpreter of another version stays as it is.
"""

import dataclasses
import math
from functools import cache, lru_cache
from typing import Any

import numpy as np

VERSION = "3.6."


def quicken() -> None:
    """Make the interpreter quicker in this process, whose kernels are all interpreted."""
    import triton
    from triton.language import core, semantic
    from triton.runtime import interpreter

    if not triton.__version__.startswith(VERSION):
        return
    _round_to_nearest(interpreter)
    _check_no_overflow(interpreter)
    _patch_language_once(interpreter)
    _call_builtins_directly(interpreter)
    _look_types_up_once(interpreter, core)
    _compare_types_by_identity(core)
    _share_shapes(core)
    _check_widths_once(interpreter, core)
    _keep_constants(interpreter, core, semantic.TritonSemantic)
    _look_shapes_up_once(interpreter, core, semantic.TritonSemantic)
    _pass_equal_types(core, semantic.TritonSemantic)


def _round_to_nearest(interpreter: Any) -> None:
    """Round fp32 to the nearest number of e4m3; Triton cuts small ones and loses carries."""
    import torch

    convert = interpreter._convert_float

    def convert_float(given: Any, of: Any, into: Any, rounding_mode: Any) -> Any:
        if of.name != "fp32" or into.name != "fp8e4nv":
            return convert(given, of, into, rounding_mode)
        exact = torch.from_numpy(np.ascontiguousarray(given).view(np.float32).reshape(-1))
        largest = torch.finfo(torch.float8_e4m3fn).max
        rounded = exact.clamp(-largest, largest).to(torch.float8_e4m3fn).view(torch.uint8)
        return rounded.numpy().reshape(given.shape)

    interpreter._convert_float = convert_float


def _check_no_overflow(interpreter: Any) -> None:
    """Skip integers' overflow checks: they end in an assertion that only ``debug`` makes."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patch_language_once(interpreter: Any) -> None:
    """Keep the interpreted versions of ``tl``'s functions between launches and calls.

    Triton looks through all members of ``tl`` at each launch and at each call of a jit function.
    """
    patch, patched = interpreter._patch_lang, {}

    def patch_once(function: Any) -> Kept:
        module = function.__globals__
        if id(module) not in patched:
            patch(function)
            patched[id(module)] = module  # holds it, so that no other takes its id
        return Kept()

    interpreter._patch_lang = patch_once


class Kept:
    """What stays patched: no kernel is compiled in this process."""

    def restore(self) -> None:
        """Change nothing."""


def _call_builtins_directly(interpreter: Any) -> None:
    """Call what a builtin wraps; the wrapper checks that it is given what it always has here."""

    def patch(owner: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        semantic = interpreter.TritonSemantic(builder)
        inner = getattr(member, "__wrapped__", member)

        def call(*arguments: Any, **named: Any) -> Any:
            named["_semantic"] = semantic
            return inner(*arguments, **named)

        scope.set_attr(owner, name, call)

    interpreter._patch_attr = patch


def _look_types_up_once(interpreter: Any, core: Any) -> None:
    """Remember the NumPy type of a scalar; Triton writes the table of all at each use."""
    of_scalar, pointer = lru_cache(maxsize=None)(interpreter._get_np_dtype), np.dtype(np.uint64)

    def type_of(type: Any) -> np.dtype:
        scalar = type.element_ty if isinstance(type, core.block_type) else type
        return pointer if isinstance(scalar, core.pointer_type) else of_scalar(scalar)

    interpreter._get_np_dtype = type_of


def _compare_types_by_identity(core: Any) -> None:
    """Take a type for itself at once; Triton unwraps and compares names."""
    compare = core.dtype.__eq__
    core.dtype.__eq__ = lambda self, other: self is other or compare(self, other)


def _share_shapes(core: Any) -> None:
    """Make a block's type once for each element and shape, and one shape for all its tensors.

    Triton makes, checks and prints a type each time, and makes three objects a dimension.
    """
    make, made = core.block_type.__init__, {}

    def create_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(unwrapped(shape))
        key = id(element_ty), sizes
        if key not in made:
            make(self, element_ty, list(sizes))
            self.sizes = sizes
            self.of_tensors = shape_of(sizes)
            made[key] = self.__dict__  # holds the element's type, so that no other takes its id
        self.__dict__ = made[key]

    def shape_of(sizes: tuple[int, ...]) -> tuple[Any, Any]:
        return core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(n) for n in sizes])

    of_scalar = shape_of(())

    def create(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = type.of_tensors if type.is_block() else of_scalar

    def unwrapped(shape: Any) -> list[int]:
        plain = shape.value if isinstance(shape, core.constexpr) else shape
        return [n.value if isinstance(n, core.constexpr) else n for n in plain]

    core.block_type.__init__ = create_type
    core.tensor.__init__, core._unwrap_shape = create, unwrapped


def _check_widths_once(interpreter: Any, core: Any) -> None:
    """Check that values are no wider than their type by a width that is looked up once a type."""

    @cache
    def widest(name: str) -> int:
        return max(core.dtype(name).primitive_bitwidth, 8) // 8

    def is_valid(data: Any, type: Any) -> bool:
        return isinstance(type, core.pointer_type) or data.itemsize <= widest(type.name)

    interpreter._validate_np_data_size = is_valid


def _keep_constants(interpreter: Any, core: Any, semantic: Any) -> None:
    """Keep the array of a number; Triton makes one at each use."""
    make, made = semantic.scalar_constant, {}

    def constant(self: Any, value: Any, dtype: Any) -> Any:
        key = type(value), value, getattr(dtype, "name", None)
        if key in made:
            data, kind = made[key]
            return core.tensor(interpreter.TensorHandle(data, kind), dtype)
        new = make(self, value, dtype)
        if not isinstance(dtype, core.pointer_type):
            new.handle.data.setflags(write=False)
            made[key] = new.handle.data, new.handle.dtype
        return new

    semantic.scalar_constant = constant


def _look_shapes_up_once(interpreter: Any, core: Any, semantic: Any) -> None:
    """Look up what two shapes broadcast to; Triton goes through their dimensions each time."""
    handle, broadcast = interpreter.TensorHandle, semantic.broadcast_impl_value

    @cache
    def common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
        if one and other and len(one) != len(other):
            return None
        try:
            return np.broadcast_shapes(one, other)
        except ValueError:
            return None

    def spread(tensor: Any, sizes: tuple[int, ...]) -> Any:
        data = tensor.handle.data
        if data.size == 1:  # in memory, because layouts of results depend on it, and sums on them
            whole = np.empty(sizes, data.dtype)
            whole.fill(data.item())
        else:
            whole = np.broadcast_to(data, sizes)
        kind = tensor.handle.dtype.scalar
        return core.tensor(handle(whole, kind), core.block_type(tensor.dtype, sizes))

    def broadcast_impl_value(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        one = lhs.type.sizes if lhs.type.is_block() else ()
        other = rhs.type.sizes if rhs.type.is_block() else ()
        if one == other:
            return lhs, rhs
        if (sizes := common(one, other)) is None:
            return broadcast(self, lhs, rhs)
        return (
            lhs if one == sizes else spread(lhs, sizes),
            rhs if other == sizes else spread(rhs, sizes),
        )

    semantic.broadcast_impl_value = broadcast_impl_value


def _pass_equal_types(core: Any, semantic: Any) -> None:
    """Only broadcast tensors of one type, or one of 32 bits and a number that fits.

    Triton looks for the type of the result, makes a tensor of the number twice, and casts both.
    """
    check = semantic.binary_op_type_checking_impl

    def takes(type: Any, value: Any) -> bool:
        """Return whether a tensor of this type computes with the number as its own."""
        if value.__class__ is float:
            return type is core.float32
        whole = value.__class__ is int and -(2**31) <= value < 2**31
        return whole and (type is core.float32 or type is core.int32)

    def check_others(
        self: Any,
        lhs: Any,
        rhs: Any,
        allow_lhs_ptr: bool = False,
        allow_rhs_ptr: bool = False,
        arithmetic_check: bool = True,
        div_or_mod: bool = False,
    ) -> tuple[Any, Any]:
        left, right = getattr(lhs, "dtype", None), getattr(rhs, "dtype", None)
        if arithmetic_check and left is None and takes(right, lhs):
            lhs, left = self.scalar_constant(lhs, right), right
        elif arithmetic_check and right is None and takes(left, rhs):
            rhs, right = self.scalar_constant(rhs, left), left
        if left is right is not None and (not div_or_mod or left is core.float32):
            return self.broadcast_impl_value(lhs, rhs)
        return check(self, lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod)

    semantic.binary_op_type_checking_impl = check_others
