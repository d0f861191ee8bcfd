"""Which kernels attention launches on Hopper, by a process that records launches without a GPU.

Run as ``python -m tests.kernels.attention.launched_variants``. Prints, as JSON, each kernel's name
and whether ``resources.py`` compiles a variant with the same types and constants.
"""

import json
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton import knobs

from kernels.attention import Kept, autograd, qkv_hopper
from kernels.attention.autograd import cached_attention
from tests.kernels.attention.resources import VARIANTS
from tests.kernels.linear import resources as projections
from tests.kernels.tools.ahead_of_time import kernel_source
from tests.kernels.tools.recorded_launches import Driver

B, T, H, G, D, C, PAIRS = 2, 1024, 8, 4, 64, 512, 8


def arguments(signature: Any, constants: Any) -> str:
    """Types and constants of a kernel's arguments."""
    return str((signature, sorted((path, str(value)) for path, value in constants.items())))


def launch(hopper: bool, xsa: bool, options: dict[str, torch.Tensor | None]) -> None:
    """Launch the whole operation, its backward pass included."""
    autograd.on_hopper = lambda saved: hopper
    x = torch.empty(B, T, C, dtype=torch.bfloat16)
    weight = torch.empty((H + 2 * G) * D, C, dtype=torch.bfloat16)
    gain, rope = torch.empty(H), torch.empty(2, T, PAIRS)
    query, rstd, key, key_rstd, v = qkv_hopper.project(x, weight, gain, rope, H, G, 1e-6)
    q, k = x.new_empty(B, T, H, D), x.new_empty(B, T, G, D)
    autograd.rotated(q, k, rope, 1e-6, gain)
    gate, documents = options["gate"], options["documents"]
    rotated = query, rstd, key, key_rstd
    saved = autograd.attend(*rotated, v, gain, rope, gate, documents, xsa)
    autograd.joint_gradient(saved, torch.empty_like(saved.y))
    if hopper:
        output = x.new_empty(C, H * D)
        autograd.joint_gradient(saved, x.new_empty(B * T, C), output, near=documents is not None)


def launch_cached(gain: torch.Tensor, options: dict[str, torch.Tensor | None]) -> None:
    """Launch both passes of chunks of documents."""
    q, k, v = (torch.empty(B, T, heads, D, dtype=torch.bfloat16) for heads in (H, G, G))
    cache, place = torch.empty(2, B, 2 * T, G, D, dtype=torch.bfloat16), torch.tensor(T)
    kept, rope = Kept(cache, place), torch.empty(2, T, PAIRS)
    y, _ = cached_attention(
        q.requires_grad_(), k, v, gain, rope, kept, eps=1e-6, xsa=True, **options
    )
    torch.autograd.grad(y, q, y)


def main() -> None:
    triton.runtime.driver.set_active(Driver())  # pyright: ignore[reportArgumentType]
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=132)
    known = set()
    for variant in [*VARIANTS, *projections.VARIANTS]:
        source = kernel_source(variant)
        known.add(variant.kernel.__name__ + arguments(source.signature, source.constants))
    found: dict[str, list[bool]] = {}

    def record(*, fn: Any, compile: Any, **_: object) -> bool:
        name = fn.jit_function.__name__
        same = name + arguments(compile["signature"], compile["constants"]) in known
        found.setdefault(fn.name.removeprefix("kernels.attention."), []).append(same)
        return True

    knobs.runtime.jit_cache_hook = record
    documents = torch.zeros(2, B, T, dtype=torch.int32)
    gate = torch.empty(B, T, H, dtype=torch.bfloat16)
    for hopper, everything in product((False, True), repeat=2):
        options = {"gate": gate, "documents": documents} if everything else {}
        launch(hopper, everything, {"gate": None, "documents": None} | options)
    launch_cached(torch.empty(H), {"gate": gate, "documents": documents})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
