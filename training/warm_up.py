"""Steps before the clock starts: they compile kernels, allocate memory and capture graphs."""

import torch

from training.schedule import Moment
from training.trainer import Trainer


def warm_up(trainer: Trainer, steps: int) -> None:
    """Prepare every variant on a GPU, and run steps; then undo everything that they changed."""
    on_gpu = trainer.world.device.type == "cuda"
    tensors = {name: tensor.clone() for name, tensor in trainer.state.tensors().items()}
    numbers = trainer.state.numbers()
    moment = Moment(progress=0.0, lr_scale=1.0, momentum=0.9, qat=False)
    if on_gpu:
        trainer.prepare(moment)
    for step in range(steps):
        trainer.step(step, moment)
    trainer.state.load(tensors, numbers)
    trainer.update.optimizer.skipped.zero_()
    if on_gpu:
        # The run's clock starts next, and must not count steps that have only been launched.
        torch.cuda.synchronize()
