"""On a GPU: the same training as on a CPU, under every backend, with the host running ahead."""

import pytest
import torch

from data.shards import TokenStream
from runtime.device import choose
from runtime.progress import Progress
from runtime.ranks import World
from tests.training.small import small_settings
from training.loop import Loop
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)


@pytest.fixture
def make_on(token_folder):
    made = []

    def make(device: str, **changes: object) -> Trainer:
        settings = small_settings(device=device, **changes)
        stream = TokenStream.open(token_folder, "train", settings.vocab_size)
        world = World.single(torch.device(device))
        made.append(Trainer(settings, stream, world, choose(settings, world.device)))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def losses(trainer: Trainer, steps: int = 20) -> list[float]:
    return torch.stack([trainer.step(step, STEADY)[0] for step in range(steps)]).tolist()


def test_gpu_and_cpu_train_alike_in_fp32(make_on):
    on_gpu = losses(make_on("cuda", backend="reference", dtype="float32"))
    on_cpu = losses(make_on("cpu", dtype="float32"))
    assert on_gpu == pytest.approx(on_cpu, rel=1e-4)


@pytest.mark.alone
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_and_eager_train_alike(make_on, dtype):
    eager = losses(make_on("cuda", backend="reference", dtype=dtype))
    compiled = losses(make_on("cuda", backend="compiled", dtype=dtype))
    assert compiled == pytest.approx(eager, rel=1e-4 if dtype == "float32" else 5e-3)


@pytest.mark.alone
def test_levers_act_without_recompilation(make_on):
    trainer = make_on("cuda", backend="compiled", late_qat_threshold=0.1)
    trainer.step(0, STEADY)
    with torch.compiler.set_stance("fail_on_recompile"):
        plain = trainer.step(1, STEADY)[0].item()
        faked = trainer.step(2, Moment(0.9, 0.1, 0.95, qat=True))[0].item()
    other = make_on("cuda", backend="compiled", late_qat_threshold=0.1)
    twin = [other.step(step, STEADY)[0].item() for step in range(3)]
    assert plain == pytest.approx(twin[1], rel=1e-4)
    assert faked != twin[2]


def test_warm_up_leaves_no_trace_on_a_gpu(make_on):
    cold, warm = make_on("cuda", backend="reference"), make_on("cuda", backend="reference")
    before = torch.cuda.get_rng_state()
    warm_up(warm, 4)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert losses(cold, 6) == losses(warm, 6)


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_the_budget_is_kept_while_the_host_runs_ahead(make_on, seconds):
    changes = {"wallclock": seconds, "iterations": 10**6, "backend": "reference"}
    trainer = make_on("cuda", **changes)
    warm_up(trainer, 3)
    loop = Loop(
        trainer, trainer.settings, None, Progress(None, None, enabled=False), lambda *_: 0.0
    )
    loop.run()
    step = loop.budget.elapsed() / loop.step
    assert seconds - 4 * step <= loop.budget.elapsed() <= seconds + step
