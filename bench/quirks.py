"""Train with quirks of parameter-golf PR #1081 put back, to learn what a difference is due to.

    python -m bench.quirks bf16,order,clip --preset sprint --data DIR ...

``bf16``: embedding tables, their moments and Muon's momentum rounded to bf16 after each step.
``order``: windows in the order of the files. ``clip``: the MTP heads never learn, and their
gradients, never cleared, take part in the global clip. What follows goes to train.py.
"""

import sys

import torch

import train
from data.loader import WindowOrder
from training.optimizer import Optimizer
from training.schedule import Moment
from training.trainer import Trainer


def round_to_bf16() -> None:
    """Keep in bf16 what the PR keeps in bf16."""
    step = Optimizer.step

    def rounded_step(self: Optimizer, lr_scale: float, momentum: float) -> None:
        step(self, lr_scale, momentum)
        for name, table in self.adamw.groups["table"].items():
            for tensor in (table.detach(), self.adamw.first[name], self.adamw.second[name]):
                tensor.copy_(tensor.bfloat16())
        for tensor in self.muon.momentum.values():
            tensor.copy_(tensor.bfloat16())

    Optimizer.step = rounded_step


def read_in_order() -> None:
    """Visit windows one after the other, every pass alike."""

    def start(self: WindowOrder, counter: int) -> int:
        return counter % self.windows * self.seq_len

    WindowOrder.start = start


def clip_with_stale_gradients() -> None:
    """Let the MTP heads' gradients pile up, be clipped with the rest, and move nothing."""
    backward, whole_step, stale = Trainer._backward, Trainer.step, {}

    def backward_onto_stale(self: Trainer) -> torch.Tensor:
        nats = backward(self)
        gradient = self.model.mtp_heads.grad
        assert gradient is not None
        stale["gradient"] = stale.get("gradient", torch.zeros_like(gradient)) + gradient
        gradient.copy_(stale["gradient"])
        return nats

    def step_without_heads(self: Trainer, step: int, moment: Moment) -> torch.Tensor:
        numbers = whole_step(self, step, moment)
        clip = self.settings.grad_clip_norm
        stale["gradient"] *= (clip / (numbers[1] + 1e-6)).clamp(max=1.0)
        self.model.mtp_heads.detach().zero_()
        return numbers

    Trainer._backward, Trainer.step = backward_onto_stale, step_without_heads


QUIRKS = {"bf16": round_to_bf16, "order": read_in_order, "clip": clip_with_stale_gradients}


def main(arguments: list[str]) -> int:
    """Put quirks back, then train."""
    chosen = arguments[0].split(",") if arguments else []
    if not chosen or set(chosen) - set(QUIRKS):
        print(f"error: name quirks first: {','.join(QUIRKS)}", file=sys.stderr)
        return 2
    for name in chosen:
        QUIRKS[name]()
    return train.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
