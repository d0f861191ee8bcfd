"""A run's scores: which weights, by which method, measured when."""

from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from data.shards import TokenStream
from data.tokenizer import ByteTable
from evaluation.score import Score
from evaluation.ttt.methods import score_adapting
from evaluation.windows import evaluate
from model.gpt import GPT
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder
from settings import Settings


class Scoreboard:
    """Scores weights on the validation split, logs every score and keeps the final ones.

    Args:
        settings: windows, stride, batch and which weights get the sliding evaluation.
        stream: the validation tokens.
        byte_table: bytes of each token.
        world: ranks share the windows.
        folder: where rank 0 logs; None on other ranks.
        progress: the line that a person sees.
    """

    def __init__(
        self,
        settings: Settings,
        stream: TokenStream,
        byte_table: ByteTable,
        world: World,
        folder: RunFolder | None,
        progress: Progress,
    ) -> None:
        self.settings, self.stream, self.byte_table = settings, stream, byte_table
        self.world, self.folder, self.progress = world, folder, progress
        self.rows: dict[str, dict[str, object]] = {}

    def final(
        self, score_fn: Callable[[Tensor, Tensor], Tensor], weights: str, step: int, elapsed: float
    ) -> None:
        """Score the weights of a run's end, sliding too where the settings ask for it.

        Args:
            score_fn: nats (B, S) of the last S positions of tokens (B, T), given targets (B, S).
            weights: "raw", "averaged" or "roundtrip".
            step: steps taken.
            elapsed: seconds of training.
        """
        strides = {"plain": self.settings.eval_seq_len}
        slides = self.settings.sliding_weights == "all" or weights == "roundtrip"
        if self.settings.eval_stride and slides:
            strides["sliding"] = self.settings.eval_stride
        for method, stride in strides.items():
            score = self.measure(score_fn, weights, method, stride, step, elapsed)
            self.rows[f"{weights}, {method}"] = asdict(score)

    def measure(
        self,
        score_fn: Callable[[Tensor, Tensor], Tensor],
        weights: str,
        method: str,
        stride: int,
        step: int,
        elapsed: float,
    ) -> Score:
        """One evaluation, logged; arguments as in ``final``, with a name for the method."""
        settings = self.settings
        score = evaluate(
            score_fn,
            self.stream,
            self.byte_table,
            seq_len=settings.eval_seq_len,
            stride=stride,
            batch_windows=max(1, settings.val_batch_size // settings.eval_seq_len),
            world=self.world,
            max_tokens=settings.val_max_tokens,
            progress=self._tell(weights, method),
        )
        self._log(score, weights, method, step, elapsed)
        return score

    def adapting(self, model: GPT, backend: str, weights: str, step: int, elapsed: float) -> None:
        """Score the weights that ``model`` holds by test-time training, if the settings ask for it.

        Args:
            model: left as it was, bit for bit.
            backend: that it computes with, as ``kernels.operations`` takes it.
            weights, step, elapsed: as in ``final``.
        """
        if not self.settings.ttt_enabled:
            return
        method = f"TTT {self.settings.ttt_method}"
        score = score_adapting(
            model,
            backend,
            self.stream,
            self.byte_table,
            self.settings,
            world=self.world,
            max_tokens=self.settings.val_max_tokens,
            progress=self._tell(weights, method),
        )
        self._log(score, weights, method, step, elapsed)
        self.rows[f"{weights}, {method}"] = asdict(score)

    def _tell(self, weights: str, method: str) -> Callable[[int, int], None]:
        return lambda done, parts: self.progress.phase(
            f"evaluating {weights} weights, {method}: {done / parts:.0%}"
        )

    def _log(self, score: Score, weights: str, method: str, step: int, elapsed: float) -> None:
        if self.folder:
            fields = {"weights": weights, "method": method, **asdict(score)}
            self.folder.log("validation", step=step, elapsed=elapsed, **fields)

    def table(self) -> str:
        """The final scores as plain text, a row each."""
        lines = [f"{'weights, method':24} {'bpb':>8} {'nats':>8} {'seconds':>8}"]
        lines += [
            f"{name:24} {row['bpb']:8.4f} {row['nats']:8.4f} {row['seconds']:8.1f}"
            for name, row in self.rows.items()
        ]
        return "\n".join(lines)
