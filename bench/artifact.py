"""What an artifact costs and loses: a run's weights coded in several ways.

    python -m bench.artifact RUN --data DIR [--limit BYTES] [--commit HASH]

RUN is a run's folder with a checkpoint; it is coded as its settings say. For each way: bits per
byte of the weights as they come back, the file's bytes, those of plain LZMA over the same codes (a
byte each, in the order of the weights, as PR #1081 has it), and seconds to quantise, to pack and to
load. Exits with 1 where GPTQ misses a bar.
"""

import argparse
import lzma
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from artifact import container
from artifact.container import Stored
from artifact.export import export, load
from artifact.hessians import collect
from artifact.quantise import Recipe, quantise
from bench.record import provenance
from data.inputs import Inputs, open_inputs
from data.shards import TokenStream
from errors import InputError
from evaluation.bpb import evaluate
from kernels import operations
from model.gpt import GPT
from settings import Settings, load_settings
from training import checkpoint
from training.progress import Progress
from training.world import World

MOST_LOST = 0.004  # bits per byte
LEAST_SMALLER = 0.04  # than plain LZMA
MOST_LOADING = 3.0  # seconds
RANK = 8  # of the corrections that are tried where the settings ask for none
HEADINGS = ("coded", "bpb", "lost", "bytes", "plain LZMA", "smaller", "steps x")
HEADINGS += ("quantise s", "pack s", "load s")
ROW = "| {label} | {bpb:.4f} | {lost:+.4f} | {bytes:,} | {plain:,} | {smaller:.1%} | {factor:.3f} "
ROW += "| {quantising:.1f} | {packing:.1f} | {loading:.1f} |"


@dataclass(frozen=True)
class Row:
    """One way of coding, as the module says; ``factor`` is on the grid's clips and floors."""

    label: str
    bpb: float
    lost: float
    bytes: int
    plain: int
    factor: float
    quantising: float
    packing: float
    loading: float

    @property
    def smaller(self) -> float:
        """The share of plain LZMA's bytes that the file does without."""
        return 1 - self.bytes / self.plain

    @property
    def misses(self) -> bool:
        """Whether it is above a bar."""
        return self.lost > MOST_LOST or self.smaller < LEAST_SMALLER or self.loading > MOST_LOADING

    def __str__(self) -> str:
        return ROW.format(**vars(self), smaller=self.smaller)


@dataclass
class Bench:
    """A run's model, its data and its weights as they were trained."""

    settings: Settings
    inputs: Inputs
    model: GPT
    weights: dict[str, Tensor]
    progress: Progress
    base: float = 0.0

    @classmethod
    def open(cls, run: Path, data: Path, progress: Progress) -> "Bench":
        """Read a run. Raises InputError for what is none, or does not fit the data."""
        settings = load_settings(["--resume", str(run), "--data", str(data)])
        path = checkpoint.latest(run / "checkpoints")
        if path is None:
            raise InputError(f"{run} has no checkpoint; give a run that ended or was interrupted")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tensors, _ = checkpoint.load(path, device)
        model = GPT(
            settings.architecture(),
            operations("reference"),
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            max_seq_len=max(settings.train_seq_len, settings.eval_seq_len),
            seed=0,
        ).to(device)
        live = {f"model.{name}": name for name, _ in model.named_parameters()}
        weights = {name: tensors[key] for key, name in live.items() if "mtp" not in name}
        averaged = {name: tensors.get(f"average.{name}", weights[name]) for name in weights}
        inputs = open_inputs(data, None, settings.vocab_size, settings.bos_id)
        found = cls(settings, inputs, model, averaged, progress)
        progress.phase("scoring the weights as they are")
        found.base = found.bpb(averaged)
        return found

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model these weights."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights.get(name, parameter))

    def bpb(self, weights: Mapping[str, Tensor]) -> float:
        """Bits per byte of the validation split, plain windows."""
        self.load(weights)
        length, device = self.settings.eval_seq_len, self.model.tok_emb.device
        return evaluate(
            self.model.score,
            self.inputs.validation,
            self.inputs.byte_table,
            seq_len=length,
            stride=length,
            batch_windows=max(1, self.settings.val_batch_size // length),
            world=World.single(device),
            max_tokens=self.settings.val_max_tokens,
        ).bpb

    def batches(self) -> Iterator[Tensor]:
        """Training windows, evenly spread, on the device."""
        length = self.settings.train_seq_len
        rows = max(1, self.settings.micro_batch_tokens // length)
        windows = max(rows, self.settings.calibration_tokens // length)
        for first in range(0, windows - rows + 1, rows):
            numbers = range(first, first + rows)
            yield torch.stack([self._window(self.inputs.train, i / windows) for i in numbers])

    def _window(self, stream: TokenStream, place: float) -> Tensor:
        length = self.settings.train_seq_len
        tokens = stream.read(int(place * (len(stream) - length)), length)
        return torch.from_numpy(tokens.astype("int32")).to(self.model.tok_emb.device)

    def row(
        self,
        label: str,
        recipe: Recipe,
        hessians: Mapping[str, Tensor] | None,
        limit: int | None = None,
    ) -> Row:
        """Code the weights in one way."""
        self.progress.phase(f"coding: {label}")
        architecture = self.settings.architecture().model_dump() | {"mtp_num_heads": 0}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "artifact.bin"
            report = export(path, architecture, self.weights, recipe, hessians, limit)
            loading, (_, found) = seconds_of(lambda: load(path))
        coarser = recipe.coarser(report.factor)
        quantising, stored = seconds_of(lambda: quantise(self.weights, coarser, hessians))
        packing, _ = seconds_of(lambda: container.encode(architecture, stored))
        bpb = self.bpb(found)
        return Row(
            label,
            bpb,
            bpb - self.base,
            report.bytes,
            plain_lzma(stored),
            report.factor,
            quantising,
            packing,
            loading,
        )


Made = TypeVar("Made")


def seconds_of(work: Callable[[], Made]) -> tuple[float, Made]:
    """How long ``work`` takes, what it queued on a GPU included, and what it makes."""
    begin = time.perf_counter()
    made = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, made


def plain_lzma(stored: Mapping[str, Stored]) -> int:
    """Bytes of all codes, scales and other values, one after the other, through LZMA."""
    parts = [
        part.cpu().contiguous().numpy().tobytes()
        for of_tensor in stored.values()
        for part in (of_tensor.values, of_tensor.scale)
        if part is not None
    ]
    return len(lzma.compress(b"".join(parts), preset=9))


def rows(bench: Bench, limit: int) -> Iterator[Row]:
    """Each way of coding; the second is what the bars are for."""
    recipe = Recipe.of(bench.settings)
    corrected = replace(recipe, rank=recipe.rank or RANK, corrected=recipe.corrected or 3)
    bench.load(bench.weights)
    bench.progress.phase("collecting Hessians")
    hessians = collect(bench.model, bench.batches())
    yield bench.row("to the nearest code", recipe, None)
    yield bench.row("GPTQ", recipe, hessians)
    yield bench.row(f"GPTQ, {corrected.corrected} corrections", corrected, hessians)
    yield bench.row(f"GPTQ, {limit:,} bytes", recipe, hessians, limit)


def main(arguments: list[str]) -> int:
    """Print the table; 1 where GPTQ misses a bar, 2 for what is no run or does not fit its data."""
    parser = argparse.ArgumentParser(prog="python -m bench.artifact", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=15_700_000, help="bytes of the last row")
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    options = parser.parse_args(arguments)
    try:
        with Progress(None, None) as progress:
            bench = Bench.open(options.run, options.data, progress)
            found = list(rows(bench, options.limit))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{name}: {value}" for name, value in provenance(options.commit).items()))
    print(f"run: {options.run.name}, {bench.base:.4f} bpb before\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    print("\n".join(map(str, found)))
    return int(found[1].misses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
