"""AdamW in one launch: PyTorch's, over parameters of any size, with averages and levers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.optimizer.adamw import LAUNCH, FusedAdamW
from kernels.optimizer.gradient_norm import GradientNorm
from tests.kernels.tools.compare import relative_error
from tests.kernels.tools.levers import make_levers
from tests.kernels.tools.twins import DEVICE

# One that does not learn here, one element, one short of a chunk, a chunk, one more, several.
SHAPES = [(4,), (), (LAUNCH.elements - 1,), (LAUNCH.elements,), (LAUNCH.elements + 1,), (3, 700)]
RATES = {1: 0.02, 2: 0.03, 3: 0.01, 4: 0.05, 5: 0.04}
AVERAGED = (1, 3, 5)
ALIKE = dict.fromkeys(RATES, 0.04)
APART = {1: 0.04, 2: 0.3, 3: 0.0, 4: 0.1, 5: 0.9}
BETAS, EPS = (0.9, 0.95), 1e-8
NEAR = 1e-5  # fp32 over a few steps; 1 - beta^t loses 4 bits at t = 1


class Run:
    """Parameters, their gradients, and the kernel over all but the first."""

    def __init__(
        self, decays: dict[int, float] = ALIKE, *, cautious: bool = False, **levers: float
    ) -> None:
        self.draw = torch.Generator().manual_seed(5)
        self.surroundings: list[Tensor] = []
        self.parameters = [self.random(shape) for shape in SHAPES]
        self.first, self.second = (
            {i: torch.zeros_like(self.parameters[i]) for i in RATES} for _ in range(2)
        )
        self.averages = {i: self.parameters[i].clone() for i in AVERAGED}
        self.levers = make_levers(**levers)
        self.norm = GradientNorm(self.parameters)
        self.adamw = FusedAdamW(
            self.norm,
            self.first,
            self.second,
            RATES,
            decays,
            self.averages,
            self.levers,
            betas=BETAS,
            eps=EPS,
            cautious=cautious,
        )

    def random(self, shape: tuple[int, ...]) -> Tensor:
        """With ones before and behind it, which nobody may write."""
        count = math.prod(shape)
        self.surroundings.append(torch.ones(count + 8, device=DEVICE))
        middle = self.surroundings[-1][4 : count + 4].view(shape)
        return middle.copy_(torch.randn(shape, generator=self.draw))

    def step(self, gradients: list[Tensor | None]) -> None:
        self.norm.gradients.update(gradients)
        self.norm(self.levers)
        self.adamw()

    def state(self) -> dict[str, Tensor]:
        columns = (dict(enumerate(self.parameters)), self.first, self.second, self.averages)
        return {
            f"{name} {i}": tensor.clone()
            for name, column in zip(("weight", "first", "second", "average"), columns, strict=True)
            for i, tensor in column.items()
        }


def in_pytorch(
    run: Run, decays: dict[int, float], lr_scale: float, decay_factor: float
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """fp64 copies of what learns, under PyTorch's AdamW."""
    copies = [run.parameters[i].double().requires_grad_() for i in RATES]
    groups = [
        {"params": [copy], "lr": RATES[i] * lr_scale, "weight_decay": decays[i] * decay_factor}
        for i, copy in zip(RATES, copies, strict=True)
    ]
    return copies, torch.optim.AdamW(groups, betas=BETAS, eps=EPS)


@pytest.mark.parametrize(
    ("clip", "decays"), [(0.0, APART), (1.0, ALIKE)], ids=["decays apart", "clipped"]
)
def test_steps_are_pytorchs_and_averages_follow(clip: float, decays: dict[int, float]):
    run = Run(decays, lr_scale=0.7, decay_factor=2.0, clip=clip, averaging_decay=0.75)
    untouched = run.parameters[0].clone()
    theirs, reference = in_pytorch(run, decays, 0.7, 2.0)
    means = [copy.detach().clone() for copy in theirs]
    for _ in range(4):
        gradients = [run.random(shape) for shape in SHAPES]
        run.step([*gradients])
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        share = min(1.0, clip / norm) if clip else 1.0
        for copy, i in zip(theirs, RATES, strict=True):
            copy.grad = share * gradients[i].double()
        reference.step()
        means = [0.75 * mean + 0.25 * w.detach() for mean, w in zip(means, theirs, strict=True)]
    for i, copy, mean in zip(RATES, theirs, means, strict=True):
        assert relative_error(run.parameters[i], copy) < NEAR
        if i in AVERAGED:
            assert relative_error(run.averages[i], mean) < NEAR
    assert torch.equal(run.parameters[0], untouched)
    assert all(bool((x[:4] == 1).all() and (x[-4:] == 1).all()) for x in run.surroundings)


def test_cautious_steps_are_the_formula():
    run = Run(APART, cautious=True, lr_scale=0.7, decay_factor=2.0)
    weights = {i: run.parameters[i].double() for i in RATES}
    first, second = ({i: torch.zeros_like(w) for i, w in weights.items()} for _ in range(2))
    decayed = 0
    for step in range(1, 4):
        gradients = [run.random(shape) for shape in SHAPES]
        run.step([*gradients])
        for i, rate in RATES.items():
            gradient = gradients[i].double()
            first[i] = BETAS[0] * first[i] + (1 - BETAS[0]) * gradient
            second[i] = BETAS[1] * second[i] + (1 - BETAS[1]) * gradient**2
            root = (second[i] / (1 - BETAS[1] ** step)).sqrt() + EPS
            same = first[i].sign() == weights[i].sign()
            decay = 0.7 * rate * 2.0 * APART[i] * same
            update = first[i] / (1 - BETAS[0] ** step) / root
            weights[i] = (1 - decay) * weights[i] - 0.7 * rate * update
            decayed += int(same.sum())
    assert 0 < decayed < 3 * sum(weight.numel() for weight in weights.values())
    for i, weight in weights.items():
        assert relative_error(run.parameters[i], weight) < NEAR


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_weights_with_an_average_lean_away_from_it(share: float):
    """In fp64; the average is of the weights before they lean. A share of 0 changes no bit."""
    run, plain = Run(averaging_decay=0.75, lean=share), Run(averaging_decay=0.75)
    theirs, reference = in_pytorch(run, ALIKE, 1.0, 1.0)
    means = {i: run.averages[i].double() for i in AVERAGED}
    for _ in range(3):
        gradients = [run.random(shape) for shape in SHAPES]
        run.step([*gradients])
        plain.step([*gradients])
        for copy, i in zip(theirs, RATES, strict=True):
            copy.grad = gradients[i].double()
        reference.step()
        for copy, i in zip(theirs, RATES, strict=True):
            if i in AVERAGED:
                means[i] = 0.75 * means[i] + 0.25 * copy.detach()
                copy.data += share * (copy.data - means[i])
    for copy, i in zip(theirs, RATES, strict=True):
        assert relative_error(run.parameters[i], copy) < NEAR
    for i in AVERAGED:
        assert relative_error(run.averages[i], means[i]) < NEAR
    same = [torch.equal(one, plain.state()[name]) for name, one in run.state().items()]
    assert all(same) == (share == 0)


@pytest.mark.parametrize(
    "lever", [{"lr_scale": 0.5}, {"decay_factor": 3.0}, {"clip": 0.1}], ids=lambda x: next(iter(x))
)
def test_each_lever_reaches_the_weights(lever: dict[str, Any]):
    plain, steered = Run(), Run(**lever)
    for run in (plain, steered):
        for _ in range(2):
            run.step([run.random(shape) for shape in SHAPES])
    for i in RATES:
        moment = plain.second[i] if "clip" in lever else plain.parameters[i]
        other = steered.second[i] if "clip" in lever else steered.parameters[i]
        assert not torch.equal(moment, other)


def test_gradients_of_any_alignment():
    aligned, unaligned = Run(), Run()
    for run in (aligned, unaligned):
        gradients = [run.random(shape) for shape in SHAPES]
        if run is unaligned:
            for i, gradient in enumerate(gradients):
                moved = torch.zeros(gradient.numel() + 1, device=DEVICE)[1:]
                gradients[i] = moved.view(gradient.shape).copy_(gradient)
        run.step([*gradients])
    for name, tensor in aligned.state().items():
        assert torch.equal(tensor, unaligned.state()[name]), name


def test_a_parameter_without_gradient_stays():
    run = Run()
    before = run.state()
    run.step([run.random(shape) if i != 3 else None for i, shape in enumerate(SHAPES)])
    for name, tensor in run.state().items():
        stays = name.endswith("3") or name == "weight 0"
        assert torch.equal(tensor, before[name]) == stays, name


def test_a_skipped_step_changes_nothing_and_is_not_counted():
    run, other = Run(), Run()
    gradients = [run.random(shape) for shape in SHAPES]
    before = run.state()
    run.step([math.nan * gradients[0], *gradients[1:]])
    for name, tensor in run.state().items():
        assert torch.equal(tensor, before[name]), name
    for each in (run, other):
        each.step([*gradients])
    for name, tensor in run.state().items():
        assert torch.equal(tensor, other.state()[name]), name


def test_statistics_are_of_each_chunks_step():
    run = Run()
    before = {i: run.parameters[i].clone() for i in RATES}
    run.step([run.random(shape) for shape in SHAPES])
    rows = iter(run.adamw.statistics.tolist())
    for i in RATES:
        pairs = zip(
            before[i].flatten().split(LAUNCH.elements),
            run.parameters[i].flatten().split(LAUNCH.elements),
            strict=True,
        )
        for old, new in pairs:
            update, weight, int6_error = next(rows)
            assert update == pytest.approx(float((new - old).double().square().sum()), rel=1e-4)
            assert weight == pytest.approx(float(new.double().square().sum()), rel=1e-5)
            assert int6_error == 0
    assert next(rows, None) is None
