"""A kernel that is wrong, in a value or in a gradient, is not let into a contest."""

import pytest
import torch

from bench.operation import Cost, Entry, backward_call, forward_call, round_call


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
    nothing = Cost(0)
    return Entry("sine", ours, sine, x, x, nothing, nothing, peers={})


def test_the_right_kernel_passes():
    entry(sine).check()


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
        entry(ours).check()


def test_calls_do_what_they_are_timed_for():
    inputs = {"x": torch.randn(8), "index": torch.arange(8)}
    assert torch.equal(forward_call(sine, inputs)()[0], inputs["x"].sin())
    (gradient,) = round_call(sine, inputs)()
    assert gradient.shape == (8,)
    backward = backward_call(sine, inputs)
    assert torch.equal(backward()[0], backward()[0])
