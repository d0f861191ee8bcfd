"""Measure what an artifact costs and loses: a run's weights coded in several ways.

    python -m bench artifact RUN --data DIR [--limit BYTES] [--commit HASH]

RUN is a run's folder with a checkpoint, whose settings say how it is coded. Each row has the bits
per byte of the weights read back, the file's bytes, and those of plain LZMA over the same codes: a
byte each, in the order of the weights, as PR #1081 does. It has the seconds to quantise, to pack,
to export and to load. Each is done and timed once; only the row that fills ``--limit`` makes
several attempts, which are timed together. The targets are for that row, by default at the size of
the public system's artifact, which lost 0.0033. The exit code is 1 if it misses one.

Rows go to stdout as they are complete, and progress to stderr. Plain LZMA takes longer than all
else of a row. On machines with enough cores it overlaps with the next rows, on up to three threads
while these are timed. On a machine of fewer than four cores each row waits for it.
"""

import lzma
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from artifact.export import export, load
from artifact.format import container
from artifact.quantisation.hessians import collect
from artifact.quantisation.recipe import Recipe, quantise
from artifact.stored import Stored
from bench.harness.record import Commit, as_lines, provenance
from data.inputs import Inputs, open_inputs
from data.shards import TokenStream
from errors import InputError
from evaluation.score import Scoring, Split
from evaluation.windows import WindowPlan, evaluate
from kernels import operations
from knowledge.edges import edges_of_run
from model.gpt import GPT
from model.parameters import roles
from runtime import checkpoint
from runtime.ranks import World
from settings import Settings
from settings.load import load_settings

PUBLIC_BYTES = 14_160_000  # PR #1081's artifact of the same sprint
MOST_LOST = 0.004  # bits per byte
LEAST_SMALLER = 0.04  # than plain LZMA
MOST_LOADING = 3.0  # seconds
RANK = 8  # of the corrections that are tried if the settings have none
CORES_A_THREAD = 4  # of plain LZMA
HEADINGS = ("coded", "bpb", "lost", "bytes", "plain LZMA", "smaller", "steps x")
HEADINGS += ("quantise s", "pack s", "export s", "load s")
ROW = "| {label} | {bpb:.4f} | {lost:+.4f} | {bytes:,} | {plain:,} | {smaller:.1%} | {factor:.3f} "
ROW += "| {quantising} | {packing} | {exporting:.1f} | {loading:.1f} |"


@dataclass(frozen=True)
class Made:
    """A file, and the seconds that it took; to quantise and to pack, where that was done once.

    ``factor`` is on the grid's clips and floors.
    """

    bytes: int
    factor: float
    exporting: float
    quantising: float | None = None
    packing: float | None = None


@dataclass(frozen=True)
class Row:
    """One way of coding, as the module says; complete once ``plain``, plain LZMA's bytes, is."""

    label: str
    bpb: float
    lost: float
    made: Made
    loading: float
    plain: Future[int]

    @property
    def smaller(self) -> float:
        """The share of plain LZMA's bytes that the file does without."""
        return 1 - self.made.bytes / self.plain.result()

    @property
    def misses(self) -> bool:
        """Whether it misses a target."""
        return self.lost > MOST_LOST or self.smaller < LEAST_SMALLER or self.loading > MOST_LOADING

    def __str__(self) -> str:
        texts = {
            "plain": self.plain.result(),
            "smaller": self.smaller,
            "quantising": shown(self.made.quantising),
            "packing": shown(self.made.packing),
        }
        return ROW.format(**vars(self) | vars(self.made) | texts)


@dataclass
class Bench:
    """A run's model, its data and its weights as they were trained; ``pool`` runs plain LZMA."""

    settings: Settings
    inputs: Inputs
    model: GPT
    weights: dict[str, Tensor]
    pool: ThreadPoolExecutor
    base: float = 0.0

    @classmethod
    def open(cls, run: Path, data: Path, pool: ThreadPoolExecutor) -> "Bench":
        """Read a run. Raises InputError for what is none, or does not fit the data."""
        settings = load_settings(["--resume", str(run), "--data", str(data)])
        path = checkpoint.latest(run / "checkpoints")
        if path is None:
            raise InputError(f"{run} has no checkpoint; give a run that ended or was interrupted")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tensors, _ = checkpoint.load(path, device)
        inputs = open_inputs(data, None, settings.vocab_size, settings.bos_id)
        edges = None
        if settings.num_edges:
            edges = torch.from_numpy(edges_of_run(settings, inputs)[0])
        model = GPT(
            settings.architecture(),
            operations("reference"),
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            max_seq_len=max(settings.train_seq_len, settings.eval_seq_len),
            seed=0,
            edges=edges,
        ).to(device)
        live = {f"model.{name}": name for name, _ in model.named_parameters()}
        weights = {name: tensors[key] for key, name in live.items() if "mtp" not in name}
        averaged = {name: tensors.get(f"average.{name}", weights[name]) for name in weights}
        found = cls(settings, inputs, model, averaged, pool)
        tell("scoring the weights as they are")
        found.base = found.bpb(averaged)
        return found

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model these weights."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights.get(name, parameter))

    def bpb(self, weights: Mapping[str, Tensor]) -> float:
        """Return bits per byte of the validation split, plain windows."""
        self.load(weights)
        inputs, settings = self.inputs, self.settings
        split = Split(inputs.validation, inputs.byte_table, settings.val_max_tokens)
        plan = WindowPlan.of(settings, stride=settings.eval_seq_len)
        scoring = Scoring(World.single(self.model.tok_emb.device))
        return evaluate(self.model.score, split, plan, scoring).bpb

    def batches(self) -> Iterator[Tensor]:
        """Yield training windows, evenly spread, on the device."""
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
        tell(f"coding: {label}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "artifact.bin"
            if limit is None:
                made, stored = self.code(path, recipe, hessians)
            else:
                made, stored = self.fill(path, recipe, hessians, limit)
            loading, (_, found) = seconds_of(lambda: load(path))
        plain = self.pool.submit(plain_lzma, raw_bytes(stored))
        if not threads():
            wait([plain])
        bpb = self.bpb(found)
        return Row(label, bpb, bpb - self.base, made, loading, plain)

    def code(
        self, path: Path, recipe: Recipe, hessians: Mapping[str, Tensor] | None
    ) -> tuple[Made, Mapping[str, Stored]]:
        """Do what `export` does without a limit, with each part timed."""
        quantising, stored = seconds_of(
            lambda: quantise(self.weights, self.roles, recipe, hessians)
        )
        packing, encoded = seconds_of(lambda: container.encode(self.architecture, stored))
        writing, _ = seconds_of(lambda: container.save(path, encoded))
        exporting = quantising + packing + writing
        return Made(len(encoded.blob), 1.0, exporting, quantising, packing), stored

    def fill(
        self, path: Path, recipe: Recipe, hessians: Mapping[str, Tensor] | None, limit: int
    ) -> tuple[Made, Mapping[str, Stored]]:
        """Export as training does: `export` looks for the steps that fill ``limit``."""
        report = export(path, self.architecture, self.weights, self.roles, recipe, hessians, limit)
        return Made(report.bytes, report.factor, report.seconds), container.read(path)[1]

    @property
    def architecture(self) -> dict[str, Any]:
        """What an artifact says of the model."""
        return self.settings.architecture().model_dump() | {"mtp_num_heads": 0}

    @property
    def roles(self) -> dict[str, str]:
        """How each parameter is coded."""
        return roles(self.settings.architecture())


Found = TypeVar("Found")


def seconds_of(work: Callable[[], Found]) -> tuple[float, Found]:
    """Return the result of ``work`` and its seconds, those of its GPU work included."""
    begin = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, found


def raw_bytes(stored: Mapping[str, Stored]) -> bytes:
    """Return all codes, scales and other values, one after the other."""
    parts = [
        part.cpu().contiguous().numpy().tobytes()
        for of_tensor in stored.values()
        for part in (of_tensor.values, of_tensor.scale)
        if part is not None
    ]
    return b"".join(parts)


def plain_lzma(raw: bytes) -> int:
    """Return bytes of ``raw`` through LZMA."""
    return len(lzma.compress(raw, preset=9))


def threads() -> int:
    """Return how many threads of plain LZMA may run while something is timed."""
    return len(os.sched_getaffinity(0)) // CORES_A_THREAD


def shown(seconds: float | None) -> str:
    """Return seconds as text, a dash if they are not known."""
    return "-" if seconds is None else f"{seconds:.1f}"


def tell(phase: str) -> None:
    """Say what is under way, next to the table."""
    print(phase, file=sys.stderr, flush=True)


def rows(bench: Bench, limit: int) -> Iterator[Row]:
    """Yield a row for each way of coding; the targets are for the last."""
    recipe = Recipe.of(bench.settings)
    corrected = replace(recipe, rank=recipe.rank or RANK, corrected=recipe.corrected or 3)
    bench.load(bench.weights)
    tell("collecting Hessians")
    hessians = collect(bench.model, bench.batches(), bench.settings.quant_by_loss)
    yield bench.row("to the nearest code", recipe, None)
    yield bench.row("GPTQ", recipe, hessians)
    yield bench.row(f"GPTQ, {corrected.corrected} corrections", corrected, hessians)
    yield bench.row(f"GPTQ, {limit:,} bytes", recipe, hessians, limit)


def print_head(bench: Bench, run: str, commit: str | None) -> None:
    """Print the lines above the rows."""
    about = as_lines(provenance(commit))
    print(f"{about}\nrun: {run}, {bench.base:.4f} bpb before\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)


def print_row(row: Row, _: Future[int]) -> None:
    """Append one line in one write, because two threads may do so."""
    print(f"{row}\n", end="", flush=True)


def main(run: Path, /, *, data: Path, limit: int = PUBLIC_BYTES, commit: Commit = None) -> int:
    """Print the table; return 1 if GPTQ misses a target.

    Args:
        run: folder with a checkpoint
        limit: bytes of the last row's file

    Raises:
        InputError: ``run`` is no run, or does not fit its data.
    """
    found: list[Row] = []
    with ThreadPoolExecutor(max(1, threads())) as pool:
        bench = Bench.open(run, data, pool)
        print_head(bench, run.name, commit)
        for row in rows(bench, limit):
            found.append(row)
            row.plain.add_done_callback(partial(print_row, row))
    return int(found[-1].misses)
