"""Triton's interpreter without the work whose result it throws away: half of its time.

It computes the same values. Each part below names what Triton 3.6 does instead; an interpreter of
another version stays as it is.
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
    from triton.language import core
    from triton.runtime import interpreter

    if not triton.__version__.startswith(VERSION):
        return
    _check_no_overflow(interpreter)
    _patch_language_once(interpreter)
    _look_types_up_once(interpreter, core)
    _share_shapes(core)


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


def _look_types_up_once(interpreter: Any, core: Any) -> None:
    """Remember the NumPy type of a scalar; Triton writes the table of all at each use."""
    of_scalar, pointer = lru_cache(maxsize=None)(interpreter._get_np_dtype), np.dtype(np.uint64)

    def type_of(type: Any) -> np.dtype:
        scalar = type.element_ty if isinstance(type, core.block_type) else type
        return pointer if isinstance(scalar, core.pointer_type) else of_scalar(scalar)

    interpreter._get_np_dtype = type_of


def _share_shapes(core: Any) -> None:
    """Make one shape for all tensors of a shape; Triton makes three objects a dimension each."""

    @cache
    def shape_of(sizes: tuple[int, ...]) -> tuple[Any, Any]:
        return core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(n) for n in sizes])

    def create(self: Any, handle: Any, type: Any) -> None:
        super(core.tensor, self).__init__()
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = shape_of(tuple(type.shape) if type.is_block() else ())

    def unwrapped(shape: Any) -> list[int]:
        plain = shape.value if isinstance(shape, core.constexpr) else shape
        return [n.value if isinstance(n, core.constexpr) else n for n in plain]

    core.tensor.__init__, core._unwrap_shape = create, unwrapped
