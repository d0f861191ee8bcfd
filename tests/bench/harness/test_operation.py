"""A kernel that is wrong, in a value or in a gradient, is not let into a contest."""

import pytest
import torch

from bench.harness.bar import Bar
from bench.harness.operation import (
    DIRECTIONS,
    Cost,
    Entry,
    backward_call,
    forward_call,
    round_call,
)
from bench.kernels.test_attention import inside
from kernels.attention.reference import document_bounds


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * ctx.saved_tensors[0].cos() * 1.01


def sine(inputs):
    return [inputs["x"].sin()]


def entry(ours) -> Entry:
    generator = torch.Generator().manual_seed(0)
    x = {"x": torch.randn(50, generator=generator), "index": torch.arange(50)}
    bars = {"both": Bar(seconds=1.0)}
    return Entry("sine", ours, sine, x, lambda: x, Cost(1, 10), Cost(2, 20), peers={}, bars=bars)


def test_the_right_kernel_passes():
    assert entry(sine).checked


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (lambda inputs: [inputs["x"].sin() * 1.001], "output 0"),
        (lambda inputs: [WrongGradient.apply(inputs["x"])], "gradient of x"),
        (lambda inputs: [inputs["x"].sin() * float("nan")], "output 0"),
    ],
    ids=["output", "gradient", "nan"],
)
def test_a_wrong_kernel_is_named_with_what_is_wrong(ours, words):
    with pytest.raises(AssertionError, match=words):
        _ = entry(ours).checked


def test_values_that_round_the_other_way_are_no_fault():
    """PyTorch's result is exact; ours is off by less than rounding once to its dtype."""
    x = {"x": torch.linspace(1, 2, 4096)}

    def rounded(inputs, shift=1.0):
        return [(inputs["x"] * shift).bfloat16().detach() + 0 * inputs["x"].bfloat16()]

    def check(shift: float) -> None:
        ours = lambda inputs: rounded(inputs, shift)  # noqa: E731
        _ = Entry("rounding", ours, rounded, x, lambda: x, Cost(0), Cost(0), peers={}).checked

    check(1 + 2**-12)
    with pytest.raises(AssertionError, match="output 0"):
        check(1 + 2**-8)


def test_each_direction_is_a_contest_and_all_share_one_compiled_reference(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    entered = entry(sine)
    made = {direction: entered.contest(direction) for direction in DIRECTIONS}
    assert compiled == [sine]
    assert [contest.name for contest in made.values()] == [
        "sine, forward",
        "sine, backward",
        "sine, both",
    ]
    assert [(c.bytes_moved, c.flops) for c in made.values()] == [(1, 10), (2, 20), (3, 30)]
    assert [c.bar.seconds == 1.0 for c in made.values()] == [False, False, True]
    assert all(set(contest.peers) == {"compiled"} for contest in made.values())


def test_calls_do_what_they_are_timed_for():
    inputs = {"x": torch.randn(8), "index": torch.arange(8)}
    assert torch.equal(forward_call(sine, inputs)()[0], inputs["x"].sin())
    (gradient,) = round_call(sine, inputs)()
    assert gradient.shape == (8,)
    backward = backward_call(sine, inputs)
    assert torch.equal(backward()[0], backward()[0])


def test_attention_inside_documents_costs_the_pairs_that_see_each_other():
    # Documents of 3 and 1 tokens: 6 + 1 of 10 pairs.
    bounds = document_bounds(torch.tensor([[1, 5, 5, 1]]), bos_id=1)
    assert inside(Cost(8, flops=1000), bounds) == Cost(8, flops=700)
