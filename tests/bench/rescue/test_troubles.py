"""Each trouble is what it says, strikes where its seed says, and leaves no trace."""

import json
import math

import numpy as np
import pytest
import torch

from bench.rescue.baselines import AdaGC, ZClip
from bench.rescue.site import Clock, Site
from bench.rescue.texts import Garbled, InOrder, Repeated, Sorted
from bench.rescue.troubles import KILLED, TROUBLES
from bench.studies.fuzz_files import clock_of_tiny
from data.shards import TokenStream, write_shard
from settings.load import merge
from settings.variants import reachable
from tests.bench.rescue.conftest import SMALL
from tests.bench.rescue.planted import Planted
from tests.training.small import small_settings, trainers
from training.budget import Budget
from training.reference_clock import ReferenceClock


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    """Documents of 5, 3 and 4 tokens, then 988 of one token; 1 begins a document."""
    tokens = [1, 7, 7, 7, 7, 1, 5, 5, 1, 6, 6, 6, *([1] * 988)]
    folder = tmp_path_factory.mktemp("text")
    write_shard(folder / "fineweb_train_000000.bin", np.array(tokens, np.uint16))
    return TokenStream.open(folder, "train", 8)


def test_a_region_of_noise_and_nothing_else(text):
    noise = np.full(10, 3, np.uint16)
    garbled, whole = Garbled(text, 500, noise), text.read(0, 1000)
    read = np.concatenate([garbled.read(start, 7) for start in range(0, 994, 7)])
    expected = whole[: len(read)].copy()
    expected[500:510] = 3
    assert read.tolist() == expected.tolist()
    assert text.read(0, 1000).tolist() == whole.tolist()


def test_one_read_in_ten_is_of_the_same_pieces(text):
    repeated = Repeated(text, [0, 998], 10, seed=1)
    starts = [start for start in range(20, 990) if repeated.read(start, 4)[1] == 7]
    assert starts == [start for start in range(20, 990) if repeated.read(start, 4)[1] == 7]
    assert 20 < len(starts) < 80  # half of the pieces
    assert len(repeated) == 1000


def test_documents_by_length_one_after_another(text):
    tokens = Sorted(text, 1).read(0, 1000).tolist()
    assert tokens == [*([1] * 988), 1, 5, 5, 1, 6, 6, 6, 1, 7, 7, 7, 7]
    order = InOrder(1000)
    assert order.blocks * order.length == 999  # a pass, as the loader asks for it
    assert [order.window(counter, 100) for counter in (0, 1, 8, 9)] == [0, 100, 800, 0]


def test_a_clock_that_hurries_loses_nothing():
    clock = Clock(2.0)
    for _ in range(3):
        clock.count()
    clock.hurry(3.0)
    assert clock.perf_counter() == 6.0
    clock.count()
    assert clock.perf_counter() == 12.0


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_strikes_and_leaves_no_trace(name: str, make):
    trainer = make()
    loader = trainer.loader
    watched = (trainer.steps, trainer.levers, loader)
    before = [dict(vars(each)) for each in watched]
    run = Planted(trainer, TROUBLES[name].plant)
    assert run.site.struck is not None
    for each, had in zip(watched, before, strict=True):
        assert vars(each).keys() == had.keys()
    assert type(loader._stream).__name__ == "TokenStream"
    assert type(loader._order).__name__ == "BlockOrder"


def test_every_order_says_when_a_pass_is_over(make):
    """Which a GPU's run asks before its first step."""
    trainer = make()
    with TROUBLES["sorted data"].plant(Site(trainer, 1, Clock(1.0))):
        assert not trainer.loader.repeats
        trainer.loader.position = len(trainer.loader._stream)
        assert trainer.loader.repeats
    assert not make().loader.repeats


def test_rates_and_momentum_are_others_throughout(make):
    few = {"iterations": 5}
    clean = Planted(make(**few)).levers
    fast = Planted(make(**few), TROUBLES["lr x 10"].plant).levers
    heavy = Planted(make(**few), TROUBLES["momentum 0.99"].plant).levers
    assert [rate for rate, _ in fast] == pytest.approx([10 * rate for rate, _ in clean])
    assert {momentum for _, momentum in heavy} == {0.99}


@pytest.mark.parametrize(
    ("trouble", "least", "most"),
    [("lr x 10", (0.5, 0.9), (2.5, 1.0)), ("momentum 0.5", (1.0, 0.94), (1.0, 0.96))],
)
def test_agents_can_correct_rates_and_momentum(token_folder, trouble, least, most):
    """A momentum that was written after every agent could not be."""
    steered = {"swarm": True, "swarm_agents": "frontier", "swarm_every": 4}
    with trainers() as make_trainer:
        settings = small_settings(**SMALL | steered)
        trainer = make_trainer(settings, token_folder, reads=("update_ratios", "momentum"))
        last = Planted(trainer, TROUBLES[trouble].plant).levers[-1]
    assert all(low <= value <= high for low, value, high in zip(least, last, most, strict=True))


def test_spikes_and_nans_are_of_single_steps(make):
    """Loss and gradients are as they were before the first, and again where the weights stay."""
    still = {"grad_clip_norm": 0.0, "matrix_lr": 0.0, "tied_embed_lr": 0.0, "scalar_lr": 0.0}
    clean = Planted(make(**still)).norms
    norms = Planted(make(**still), TROUBLES["spikes"].plant).norms
    ratios = np.divide(norms, clean)
    assert sorted(ratios)[:15] == pytest.approx([1.0] * 15)
    assert sorted(ratios)[15:] == pytest.approx([100.0] * 5)
    storm = Planted(make(iterations=40), TROUBLES["NaN storm"].plant, seed=3)
    assert 0 < sum(map(math.isnan, storm.norms)) < 4
    assert all(map(math.isfinite, storm.losses))


def test_a_burst_is_whole_batches_of_noise(make):
    """It begins when what the loader has filled is read, in all runs at the same step."""
    still = {"matrix_lr": 0.0, "tied_embed_lr": 0.0, "scalar_lr": 0.0, "iterations": 40}
    run, clean = Planted(make(**still), TROUBLES["garbage, burst"].plant), Planted(make(**still))
    others = [
        i for i, pair in enumerate(zip(run.losses, clean.losses, strict=True)) if len({*pair}) > 1
    ]
    assert run.site.struck == 16
    assert others == [20, 21, 22, 23]


def test_half_speed_and_an_early_end_leave_fewer_steps(make):
    clocked = {"wallclock": 20.0, "iterations": 10_000}
    trouble = TROUBLES["half speed"]
    slowed = len(Planted(make(**clocked), trouble.plant).losses)
    assert trouble.told
    assert slowed == pytest.approx(13, abs=1)
    assert len(Planted(make(**clocked), trouble.told).losses) == pytest.approx(slowed, abs=1)
    killed = Planted(make(**clocked), TROUBLES["early end"].plant)
    assert len(killed.losses) == pytest.approx(20 * KILLED, abs=1)
    with TROUBLES["early end"].plant(Site(make(), 1, Clock(1.0))):
        half = Budget(10.0, 10_000, reserved=5.0)  # whose steps end at 5 s
        assert half.fits(1, 3.4, 0.1) and not half.fits(1, 3.6, 0.1)


def test_zclip_cuts_outliers_by_the_papers_formula():
    guard, norms = ZClip(), [1.0 + 0.1 * (-1) ** i for i in range(25)]
    for norm in norms:
        gradient = torch.tensor([norm])
        guard([gradient])
        assert gradient.item() == pytest.approx(norm)
    mean, deviation = np.mean(norms), np.std(norms)
    gradient = torch.tensor([60.0, 80.0])
    guard([gradient])
    z = (100 - mean) / deviation
    assert gradient.norm().item() == pytest.approx(mean + 2.5**2 / z * deviation, rel=1e-4)
    assert (gradient[1] / gradient[0]).item() == pytest.approx(4 / 3)
    for _ in range(2):
        spoilt = torch.tensor([math.nan])
        guard([spoilt])
        assert spoilt.isnan()
    gradient = torch.tensor([1.05])
    guard([gradient])
    assert gradient.item() == pytest.approx(1.05)


def test_adagc_cuts_each_tensor_by_its_own_past():
    guard = AdaGC(warm_up=2)
    for _ in range(3):
        pair = [torch.tensor([0.3]), torch.tensor([0.4])]
        guard(pair)
    pair = [torch.tensor([0.3]), torch.tensor([40.0])]
    guard(pair)
    assert [each.item() for each in pair] == pytest.approx([0.3, 1.05 * 0.4])
    pair = [torch.tensor([math.inf]), torch.tensor([0.4])]
    guard(pair)
    assert pair[0].isinf()
    assert pair[1].item() == pytest.approx(0.4)


def test_a_clock_that_is_slowed_hurries_reference_seconds(tmp_path):
    file, settings = tmp_path / "clock.json", merge({"preset": "tiny"})
    file.write_text(json.dumps(clock_of_tiny()))
    reference, clock, variant = ReferenceClock(file, settings, 1), Clock(), reachable(settings)[0]
    with clock.worn():
        assert reference.seconds(variant) == pytest.approx(0.0095)
        clock.hurry(2.0)
        assert reference.seconds(variant) == pytest.approx(0.019)
    assert reference.seconds(variant) == pytest.approx(0.0095)
