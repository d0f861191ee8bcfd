"""Which kernel each operation of a network takes, from sizes alone, without a GPU.

The predicates are those by which the operations choose at run time.
"""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Sizes of a network's operations."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dims: int
    mlp: int


class Route(NamedTuple):
    """The kernel of an operation.

    Attributes:
        operation: its name, as in ``kernels.Operations``.
        kernel: what computes it.
        missed: why it is not the fastest kernel that there is; empty if it is.
    """

    operation: str
    kernel: str
    missed: str = ""


def routes(sizes: Sizes, backend: str, attention: str, fp8: bool = False) -> tuple[Route, ...]:
    """Return each operation's route on a Hopper GPU in bf16.

    Args:
        sizes: of the network.
        backend, attention: as ``kernels.operations`` takes them.
        fp8: whether steps have products in fp8.
    """
    if backend != "kernels":
        whole = "PyTorch" if backend == "reference" else "PyTorch, under torch.compile"
        slow = "backend kernels is faster on a Hopper GPU"
        return Route("attention", f"{attention}, by PyTorch", slow), Route("the rest", whole, slow)
    return (
        Route("embed", "Triton"),
        Route("mix_norm, norm, lanes", "Triton"),
        _projections(sizes),
        *(
            (_attention(sizes), _output(sizes))
            if attention == "own"
            else (Route("attention", attention),)
        ),
        Route("linear, linear_add", "cuBLAS"),
        _mlp(sizes, fp8),
        Route("loss", "cuBLAS products, Triton softmax"),
        Route("quant", "Triton"),
        Route("update", "Triton; Muon's products Triton and cuBLAS"),
    )


def _projections(sizes: Sizes) -> Route:
    from kernels.attention import qkv_hopper
    from kernels.common import stationary

    name, pairs = "projections of self_attention", sizes.rope_dims // 2
    heads = (sizes.heads, sizes.kv_heads, sizes.head_dim)
    hidden = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    if not qkv_hopper.heads_fit(*heads, pairs):
        why = "needs even numbers of heads, head dim 64 and 16 or 32 rotary dims"
    elif not stationary.sizes_fit(sizes.width, hidden):
        why = f"needs a width of 64 n, at most {stationary.WIDEST}"
    else:
        return Route(name, "Gluon for Hopper, with norm and rotary")
    return Route(name, "cuBLAS, then Triton for norm and rotary", why)


def _attention(sizes: Sizes) -> Route:
    from kernels.attention import schedule_hopper

    group = sizes.heads // sizes.kv_heads
    if schedule_hopper.heads_fit(group, sizes.head_dim, sizes.rope_dims // 2):
        return Route("attention", "Gluon for Hopper")
    why = "needs head dim 64, groups of 1, 2, 4, 8 or 16 heads and 16 n rotary dims"
    return Route("attention", "Triton", why)


def _output(sizes: Sizes) -> Route:
    from kernels.attention import backward_prepare_hopper
    from kernels.common import stationary

    name = "output of self_attention, backward"
    if not backward_prepare_hopper.heads_fit(sizes.heads, sizes.kv_heads, sizes.head_dim):
        why = "needs head dim 64 and two query heads a key head"
    elif not stationary.sizes_fit(sizes.width, sizes.heads * sizes.head_dim):
        why = f"needs a width of 64 n, at most {stationary.WIDEST}"
    else:
        return Route(name, "Gluon for Hopper, with XSA and gate")
    return Route(name, "cuBLAS, then Triton for XSA and gate", why)


def _mlp(sizes: Sizes, fp8: bool) -> Route:
    from kernels.common import stationary

    in_fp8 = ", forward in fp8" if fp8 else ""
    if stationary.sizes_fit(sizes.width, sizes.mlp, fp8):
        return Route("mlp", f"Gluon for Hopper and cuBLAS{in_fp8}")
    depth = stationary.DEPTH_FP8.value if fp8 else stationary.DEPTH.value
    why = f"needs a width of {depth} n, at most {stationary.WIDEST}, and an MLP of 128 n"
    return Route("mlp", f"Triton and cuBLAS{in_fp8}", why)
