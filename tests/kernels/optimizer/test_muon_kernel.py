"""Fused Muon against its formula: banks tall and wide, several to a batch, levers, averages."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.optimizer.gradient_norm import GradientNorm
from kernels.optimizer.muon import Bank, FusedMuon, launch_concurrently
from kernels.optimizer.muon_passes import LAUNCH
from kernels.quant.reference import grid_change
from tests.kernels.tools.compare import relative_error
from tests.kernels.tools.levers import make_levers
from tests.kernels.tools.simulated_streams import MAIN, simulated
from tests.kernels.tools.twins import DEVICE

COEFFICIENTS = [(3.4445, -4.7750, 2.0315)] * 2
# Tall and wide ones of one batch; odd; square; and of one batch again, but cut into different
# numbers of tiles, the last of each not full.
SHAPES = [
    (2, 24, 10),
    (3, 10, 24),
    (1, 5, 7),
    (2, 9, 9),
    (2, 2 * LAUNCH.elements // 128 + 3, 100),
    (1, 100, 67),
]
RATES = [0.1, 0.2, 0.1, 0.05, 0.1, 0.1]
DECAYS = [0.05, 0.0, 0.1, 0.05, 0.02, 0.05]
MIN_STEP, MEAN = 0.02, 0.75
NEAR = 1e-5
# Of all banks together, one weight whose update's sign is lost in rounding: rate decay / 100.
NEAR_CAUTIOUS = 1e-4
PLAIN: dict[str, Any] = {}
NORMUON: dict[str, Any] = {"beta2": 0.75}
CAUTIOUS: dict[str, Any] = {"cautious": True}


class Run:
    """Banks under fused Muon; every second one has an average."""

    def __init__(
        self, *, row_norm: bool = False, beta2: float = 0.0, cautious: bool = False, **levers: float
    ) -> None:
        self.draw = torch.Generator().manual_seed(5)
        self.banks = []
        for place, shape in enumerate(SHAPES):
            weight = self.random(shape)
            average = self.random(shape) if place % 2 else None
            second = torch.zeros(*shape[:2], 1, device=DEVICE) if beta2 else None
            self.banks.append(Bank(weight, torch.zeros_like(weight), average, second))
        self.levers = make_levers(averaging_decay=MEAN, **levers)
        self.norm = GradientNorm([bank.weight for bank in self.banks])
        self.muon = FusedMuon(
            self.banks,
            self.norm,
            self.levers,
            coefficients=COEFFICIENTS,
            dtype=torch.float32,
            rates=RATES,
            decays=DECAYS,
            row_norm=row_norm,
            min_step=MIN_STEP,
            beta2=beta2,
            cautious=cautious,
        )
        for moments in filter(None, self.muon.moments):
            moments.sums.fill_(math.nan)

    def random(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.draw).to(DEVICE)

    def step(self, gradients: list[Tensor | None]) -> None:
        self.norm.gradients.update(gradients)
        self.norm(self.levers)
        self.muon(gradients)

    def state(self) -> list[Tensor]:
        return [tensor.clone() for bank in self.banks for tensor in bank if tensor is not None]


def orthogonalised(matrices: Tensor) -> Tensor:
    x = matrices.mT if matrices.size(1) > matrices.size(2) else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if x.shape == matrices.shape else x.mT


def in_fp64(bank: Bank) -> Bank:
    """A copy on the CPU, with zeros for what it lacks."""
    shape = bank.weight.shape
    return Bank(*(torch.zeros(shape).double() if x is None else x.double().cpu() for x in bank))


def by_formula(
    bank: Bank,
    gradient: Tensor,
    numbers: tuple[float, float],
    levers: dict[str, float],
    row_norm: bool = False,
    beta2: float = 0.0,
    cautious: bool = False,
) -> Bank:
    weight, momentum, average, second = bank
    assert average is not None
    assert second is not None
    momentum = levers["momentum"] * momentum + gradient
    nesterov = gradient + levers["momentum"] * momentum
    if row_norm:
        nesterov = nesterov / nesterov.norm(dim=-1, keepdim=True)
    rate = numbers[0] * levers["lr_scale"]
    stretch = max(1.0, weight.size(1) / weight.size(2)) ** 0.5
    update = orthogonalised(nesterov)
    if beta2:
        second = beta2 * second + (1 - beta2) * update.square().mean(dim=2, keepdim=True)
        even = update / second.sqrt()
        update = even * (update.norm(dim=(1, 2)) / even.norm(dim=(1, 2)))[:, None, None]
    decay = rate * numbers[1] * levers["decay_factor"] * torch.ones_like(weight)
    if cautious:
        decay[update.sign() != weight.sign()] = 0.0
    weight = (1 - decay) * weight - rate * stretch * update
    mean = MEAN * average + (1 - MEAN) * weight
    return Bank(weight + levers.get("lean", 0.0) * (weight - mean), momentum, mean, second)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_banks_with_an_average_lean_away_from_it(share: float):
    """The average is of the weights before they lean. A share of 0 changes no bit."""
    steady: dict[str, Any] = {"lr_scale": 0.5, "momentum": 0.8}
    run, plain = Run(**steady, lean=share), Run(**steady)
    exact = [in_fp64(bank) for bank in run.banks]
    for _ in range(2):
        gradients = [run.random(shape) for shape in SHAPES]
        for each in (run, plain):
            each.step([*gradients])
        for place, numbers in enumerate(zip(RATES, DECAYS, strict=True)):
            leans = share if run.banks[place].average is not None else 0.0
            levers = steady | {"decay_factor": 1.0, "lean": leans}
            gradient = gradients[place].double().cpu()
            exact[place] = by_formula(exact[place], gradient, numbers, levers)
    for bank, expected in zip(run.banks, exact, strict=True):
        assert relative_error(bank.weight.cpu(), expected.weight) < NEAR
        if bank.average is not None and expected.average is not None:
            assert relative_error(bank.average.cpu(), expected.average) < NEAR
    same = all(map(torch.equal, run.state(), plain.state()))
    assert same == (share == 0)


@pytest.mark.parametrize(
    ("rule", "clip"),
    [
        (PLAIN, 0.0),
        (PLAIN, 1.0),
        ({"row_norm": True}, 0.0),
        ({"row_norm": True}, 1.0),
        (NORMUON, 0.0),
        (NORMUON | CAUTIOUS | {"row_norm": True}, 1.0),
    ],
    ids=["", "clipped", "row norm", "row norm, clipped", "normuon", "all"],
)
def test_steps_are_the_formulas(rule: dict[str, Any], clip: float):
    levers: dict[str, Any] = {"lr_scale": 0.5, "momentum": 0.8, "decay_factor": 2.0, "clip": clip}
    run, near = Run(**rule, **levers), NEAR_CAUTIOUS if "cautious" in rule else NEAR
    exact = [in_fp64(bank) for bank in run.banks]
    for _ in range(3):
        gradients = [run.random(shape) for shape in SHAPES]
        run.step([*gradients])
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        share = min(1.0, clip / norm) if clip else 1.0
        exact = [
            by_formula(bank, share * gradient.double().cpu(), numbers, levers, **rule)
            for bank, gradient, numbers in zip(
                exact, gradients, zip(RATES, DECAYS, strict=True), strict=True
            )
        ]
    for bank, expected in zip(run.banks, exact, strict=True):
        for got, tensor in zip(bank, expected, strict=True):
            if got is not None and tensor is not None:
                assert relative_error(got.cpu(), tensor) < near


def test_a_skipped_step_changes_nothing_and_leaves_no_trace():
    run, other = Run(**NORMUON), Run(**NORMUON)
    gradients = [run.random(shape) for shape in SHAPES]
    before = run.state()
    # After a step with tiny gradients: what lies in the batches is divided by its norm then.
    run.step([math.nan * gradients[0], *gradients[1:]])
    assert all(map(torch.equal, run.state(), before))
    for each in (run, other):
        each.step([1e-20 * gradient for gradient in gradients])
        if each is run:
            run.step([math.inf * gradient for gradient in gradients])
        each.step([*gradients])
    assert all(map(torch.equal, run.state(), other.state()))


def test_a_bank_without_gradient_stays_and_others_learn():
    run, other = Run(), Run()
    before = run.state()
    gradients = [run.random(shape) for shape in SHAPES]
    run.step([None, *gradients[1:]])
    other.step([torch.zeros_like(gradients[0]), *gradients[1:]])
    for i in range(len(SHAPES)):
        learns = run.banks[i].weight
        if i == 0:
            assert torch.equal(learns, before[0])
        else:
            assert torch.equal(learns, other.banks[i].weight)


def test_chains_wait_for_none_of_the_others():
    run, other = Run(), Run()
    gradients = [run.random(shape) for shape in SHAPES]
    run.step([*gradients])
    other.norm.gradients.update([*gradients])
    other.norm(other.levers)
    chains = other.muon.chains([*gradients])
    assert len(chains) == len(other.muon.batches) == 4
    for chain in reversed(chains):
        chain()
    assert all(map(torch.equal, run.state(), other.state()))


@pytest.mark.skipif(DEVICE == "cuda", reason="simulates streams")
@pytest.mark.parametrize(
    "lanes", [(), (None, 0, 1, 2), (0, None), (0, 0, 1)], ids=lambda lanes: f"lanes {lanes}"
)
def test_what_follows_waits_for_all_chains(
    lanes: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kernels.optimizer.muon.LANES", lanes)
    given, results = torch.ones(3), [torch.zeros(3) for _ in range(4)]
    with simulated(monkeypatch) as launches:
        given.mul_(2)
        launch_concurrently(given.device, [partial(result.add_, given) for result in results])
        given.add_(sum(results))
    assert launches.races == []
    assert launches.names() == {MAIN} | {f"lane {lane}" for lane in lanes if lane is not None}
    assert given.tolist() == [10.0] * 3


def test_statistics_are_of_each_banks_step():
    run = Run(**NORMUON, **CAUTIOUS)
    before = [bank.weight.clone() for bank in run.banks]
    run.step([run.random(shape) for shape in SHAPES])
    for old, bank, rows in zip(before, run.banks, run.muon.statistics, strict=True):
        change = bank.weight - old
        error = grid_change(bank.weight, torch.tensor(1.0, device=DEVICE), MIN_STEP)
        expected = [float(x.double().square().sum()) for x in (change, bank.weight, error)]
        assert rows.sum(0).tolist() == pytest.approx(expected, rel=1e-4)
