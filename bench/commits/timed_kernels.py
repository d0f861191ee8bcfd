"""Single operations at the size of a step, in the tree that is first on the path.

The tree may have another layout than this file's tree. So only names that all layouts share are
imported; ``find`` looks up the others.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

EPS, SLOPE, SOFTCAP, BOS = 1e-6, 0.75, 30.0, 1

Inputs = dict[str, Tensor]
Operation = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
Call = Callable[[], Sequence[Tensor]]


class Sizes(NamedTuple):
    """Of one step's tokens, and of preset ``seed``'s network."""

    windows: int = 48
    time: int = 2048
    width: int = 512
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    rope_dims: int = 16
    hidden: int = 1536
    vocabulary: int = 1024
    mtp_heads: int = 2
    table: int = 128
    rows: int = 2048
    layers: int = 11


TINY = Sizes(2, 16, 32, 4, 2, 8, 4, 96, 64, 1, 8, 32, 2)
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32


def find(*places: str) -> Any:
    """Return the first of ``module:name`` that this tree has."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return attrgetter(name)(importlib.import_module(module))
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"none of {', '.join(places)} is there")


def in_parallel() -> AbstractContextManager[None]:
    """Record launches and compile their kernels in parallel at the end; nothing on a CPU."""
    if not GPU:
        return nullcontext()
    return find("kernels.common.compiling:compile_in_parallel", "kernels.compiling:side_by_side")()


class Passed(torch.autograd.Function):
    """A leaf's values as no leaf, because an operation may add in their memory."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def passed(leaf: Tensor) -> Tensor:
    """Return a leaf as an operation may modify it."""
    result = Passed.apply(leaf)
    assert isinstance(result, Tensor)
    return result


def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = DTYPE) -> Tensor:
    """Return random numbers on the device."""
    return (torch.randn(shape, device=DEVICE) * scale).to(dtype)


def random_tokens(s: Sizes, extra: int = 0) -> Tensor:
    """Return token ids (B, T), int32."""
    shape = (s.windows, s.time + extra)
    return torch.randint(s.vocabulary, shape, device=DEVICE, dtype=torch.int32)


def random_documents(s: Sizes) -> Tensor:
    """Return first position and end of each position's document, (2, B, T) int32."""
    places = torch.arange(s.time, device=DEVICE).expand(s.windows, -1)
    begins = torch.rand(s.windows, s.time, device=DEVICE) < 4 / s.time
    first = places.where(begins, 0).cummax(1).values
    end = places.where(begins, s.time).roll(-1, 1)
    end[:, -1] = s.time
    end = end.flip(1).cummin(1).values.flip(1)
    return torch.stack((first, end)).int()


def attention(ops: Any, s: Sizes, xsa: bool, gate: bool, documents: bool) -> tuple:
    """Prepare attention of projected queries, keys and values."""
    queries, keys = (s.windows, s.time, s.heads), (s.windows, s.time, s.kv_heads)
    inputs = {"q": random(*queries, s.head_dim), "k": random(*keys, s.head_dim)}
    inputs |= {"v": random(*keys, s.head_dim), "gain": random(s.heads).float() + 1.5}
    if gate:
        inputs["gate"] = random(*queries)
    options: dict[str, Any] = {"eps": EPS, "xsa": xsa}
    options["rope"] = ops.rope_table(s.time, s.rope_dims, 1e4, DEVICE)
    if documents:
        options["documents"] = random_documents(s)
    return lambda given: [ops.attention(**given, **options)], inputs


def self_attention(ops: Any, s: Sizes, xsa: bool, lookup: bool) -> tuple:
    """Prepare attention of its layer's input."""
    parts = (s.heads + 2 * s.kv_heads) * s.head_dim
    inputs = {
        "x": random(s.windows, s.time, s.width),
        "weight": random(parts, s.width, scale=s.width**-0.5),
        "gain": random(s.heads).float() + 1.5,
    }
    if lookup:
        inputs["lookup"] = random(s.windows, s.time, s.table)
        inputs["lookup_weight"] = random(s.kv_heads * s.head_dim, s.table, scale=s.table**-0.5)
    options: dict[str, Any] = {"heads": s.heads, "kv_heads": s.kv_heads, "eps": EPS, "xsa": xsa}
    options["rope"] = ops.rope_table(s.time, s.rope_dims, 1e4, DEVICE)

    if "heads" not in signature(ops.self_attention).parameters:
        del options["heads"]  # the gain's in newer commits

    def operation(given: Mapping[str, Tensor]) -> list[Tensor]:
        rest: dict[str, Any] = dict(given)
        if lookup and "lookup_weight" not in signature(ops.self_attention).parameters:
            rest["lookup"] = rest["lookup"], rest.pop("lookup_weight")  # two in older commits
        return [ops.self_attention(**rest, **options)]

    return operation, inputs


def attention_branch(ops: Any, s: Sizes) -> tuple:
    """Prepare attention of its layer's input with XSA, projected and added to the stream."""
    attend, inputs = self_attention(ops, s, xsa=True, lookup=False)
    inputs["output"] = random(s.width, s.heads * s.head_dim, scale=s.width**-0.5)
    inputs["stream"] = random(s.windows, s.time, s.width)

    def operation(given: Mapping[str, Tensor]) -> list[Tensor]:
        rest: dict[str, Any] = dict(given)
        output, stream = rest.pop("output"), passed(rest.pop("stream"))
        if "onto" in signature(ops.self_attention).parameters:
            return attend(rest | {"onto": (output, stream)})
        return [ops.linear_add(stream, attend(rest)[0].flatten(2), output)]  # in older commits

    return operation, inputs


def norm(ops: Any, s: Sizes) -> tuple:
    """Prepare the norm in a layer's middle."""
    inputs = {"x": random(s.windows, s.time, s.width)}
    return lambda given: ops.norm(passed(given["x"]), scale=0.5, eps=EPS), inputs


def mix_norm(ops: Any, s: Sizes, skip: bool) -> tuple:
    """Prepare the norm at a layer's entry."""
    inputs = {name: random(s.windows, s.time, s.width) for name in ("stream", "x0")}
    inputs["mix"] = random(2, s.width).float()
    if skip:
        inputs["skip"] = random(s.windows, s.time, s.width)
        inputs["skip_weight"] = random(s.width).float()

    def operation(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
        mixed, normed, _, x0 = ops.mix_norm(**given, scale=0.5, eps=EPS)[:4]
        return [mixed, normed, x0]

    return operation, inputs


def mlp(ops: Any, s: Sizes) -> tuple:
    """Prepare the MLP, added to the stream."""
    inputs = {
        "x": random(s.windows, s.time, s.width),
        "up": random(s.hidden, s.width, scale=s.width**-0.5),
        "down": random(s.width, s.hidden, scale=s.hidden**-0.5),
        "stream": random(s.windows, s.time, s.width),
    }

    def operation(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return [ops.mlp(**{**given, "stream": passed(given["stream"])}, slope=SLOPE)]

    return operation, inputs


def linear(ops: Any, s: Sizes) -> tuple:
    """Prepare a product."""
    inputs = {"x": random(s.windows, s.time, s.width)}
    inputs["weight"] = random(s.width, s.width, scale=s.width**-0.5)
    return lambda given: [ops.linear(**given)], inputs


def linear_add(ops: Any, s: Sizes) -> tuple:
    """Prepare a product, added to the stream."""
    _, inputs = linear(ops, s)
    inputs["stream"] = random(s.windows, s.time, s.width)

    def operation(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return [ops.linear_add(passed(given["stream"]), given["x"], given["weight"])]

    return operation, inputs


def projections(ops: Any, s: Sizes) -> tuple:
    """Prepare queries, keys and values of one input."""
    sizes = [heads * s.head_dim for heads in (s.heads, s.kv_heads, s.kv_heads)]
    inputs = {"x": random(s.windows, s.time, s.width)}
    inputs["weight"] = random(sum(sizes), s.width, scale=s.width**-0.5)
    return lambda given: list(ops.projections(**given, sizes=sizes)), inputs


def loss(ops: Any, s: Sizes) -> tuple:
    """Prepare the loss of the main and the MTP heads."""
    inputs = {
        "hidden": random(s.windows, s.time, s.width),
        "head": random(s.vocabulary, s.width, scale=0.05),
        "mtp_heads": random(s.mtp_heads, s.vocabulary, s.width, scale=0.05),
    }
    options: dict[str, Any] = {"targets": random_tokens(s), "softcap": SOFTCAP}
    options["mtp_weight"] = torch.tensor(0.1, device=DEVICE)
    return lambda given: ops.loss(**given, **options), inputs


def embed(ops: Any, s: Sizes) -> tuple:
    """Prepare the embedding with bigrams and SmearGate."""
    inputs = {
        "table": random(s.vocabulary, s.width).float(),
        "smear_gate": random(s.width).float(),
        "bigram_table": random(s.rows, s.table).float(),
        "bigram_proj": random(s.width, s.table, scale=s.table**-0.5),
        "bigram_scale": random(1).float()[0],
    }
    options: dict[str, Any] = {"tokens": random_tokens(s), "dtype": DTYPE, "eps": EPS}

    def operation(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
        rest = dict(given)
        bigram = tuple(rest.pop(f"bigram_{part}") for part in ("table", "proj", "scale"))
        return [ops.embed(**rest, **options, bos_id=BOS, bigram=bigram)]

    return operation, inputs


def quant(ops: Any, s: Sizes) -> tuple:
    """Prepare the compute copy of the MLP's down bank, on the int6 grid."""
    shape, lever = (s.layers, s.width, s.hidden), torch.tensor(1.0, device=DEVICE)
    inputs = {
        name: random(*size, dtype=torch.float32)
        for name, size in (("weight", shape), ("row_scale", shape[:2]))
    }

    def operation(given: Mapping[str, Tensor]) -> list[Tensor]:
        copy = ops.quant(given["weight"], DTYPE, lever, 0.0, given["row_scale"])
        return [copy[0] if isinstance(copy, tuple) else copy]  # a tensor in older commits

    return operation, inputs


# By name: the operation of named inputs, and the inputs.
KERNELS: dict[str, Callable[[Any, Sizes], tuple[Operation, Inputs]]] = {
    "attention": lambda ops, s: attention(ops, s, xsa=False, gate=False, documents=False),
    "attention, xsa": lambda ops, s: attention(ops, s, xsa=True, gate=False, documents=False),
    "attention, gate": lambda ops, s: attention(ops, s, xsa=False, gate=True, documents=False),
    "attention, documents": lambda ops, s: attention(ops, s, xsa=False, gate=False, documents=True),
    "self_attention": lambda ops, s: self_attention(ops, s, xsa=False, lookup=False),
    "self_attention, xsa": lambda ops, s: self_attention(ops, s, xsa=True, lookup=False),
    "self_attention, xsa, lookup": lambda ops, s: self_attention(ops, s, xsa=True, lookup=True),
    "attention branch, xsa": attention_branch,
    "norm": norm,
    "mix_norm": lambda ops, s: mix_norm(ops, s, skip=False),
    "mix_norm, skip": lambda ops, s: mix_norm(ops, s, skip=True),
    "mlp": mlp,
    "linear": linear,
    "linear_add": linear_add,
    "projections": projections,
    "loss": loss,
    "embed": embed,
    "quant": quant,
}
BOTH = ", forward and backward"


def leaves_of(inputs: Inputs) -> Inputs:
    """Return the inputs with gradients."""
    return {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}


def forward_call(operation: Operation, inputs: Inputs) -> Call:
    """Return a call of the forward, with all that it saves for the backward."""
    leaves = leaves_of(inputs)
    return lambda: operation(leaves)


def both_call(operation: Operation, inputs: Inputs) -> Call:
    """Return a call of forward and backward, whose results are the gradients too."""
    leaves = leaves_of(inputs)
    upstream: list[Tensor] = []

    def call() -> Sequence[Tensor]:
        outputs = [output for output in operation(leaves) if output.requires_grad]
        if not upstream:
            upstream.extend(
                torch.randn_like(output) if output.dim() else torch.ones_like(output)
                for output in outputs
            )
        wanted = list(leaves.values())
        found = torch.autograd.grad(outputs, wanted, upstream, allow_unused=True)
        return [*outputs, *(gradient for gradient in found if gradient is not None)]

    return call
