"""The scores of a run: which weights, by which method, at which step."""

from dataclasses import replace

from evaluation.score import Score, ScoreFunction, Scoring, Split
from evaluation.ttt.methods import score_adapting
from evaluation.windows import WindowPlan, evaluate
from model.gpt import GPT
from runtime import ROUNDTRIP
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder
from settings import Settings


class Scoreboard:
    """Scores weights on the validation split, logs every score and keeps the final ones.

    Args:
        settings: windows, stride, batch and which weights get the sliding evaluation.
        split: the validation split.
        world: ranks share the windows.
        folder: where rank 0 logs; None on other ranks.
        progress: the progress line.
    """

    def __init__(
        self,
        settings: Settings,
        split: Split,
        world: World,
        folder: RunFolder | None,
        progress: Progress,
    ) -> None:
        self.settings, self.split = settings, split
        self.world, self.folder, self.progress = world, folder, progress
        self.rows: dict[str, dict[str, float]] = {}

    def validate(
        self, score_fn: ScoreFunction, step: int, elapsed: float, tokens: int = 0
    ) -> float:
        """Score the live weights between steps by plain windows; return their bits per byte.

        Args:
            score_fn, step, elapsed: as in ``final``.
            tokens: the first so many; 0: all.
        """
        plan = WindowPlan.of(self.settings, self.settings.eval_seq_len)
        most = min(tokens or self.split.targets, self.split.targets)
        split = replace(self.split, max_tokens=most)
        scoring = Scoring(self.world) if tokens else self._scoring("raw", "plain")
        score = evaluate(score_fn, split, plan, scoring)
        self._log(score, "raw", "plain", step, elapsed)
        return score.bpb

    def final(self, score_fn: ScoreFunction, weights: str, step: int, elapsed: float) -> None:
        """Score the weights of a run's end, by sliding windows too if the settings say so.

        Args:
            score_fn: nats (B, S) of the last S positions of tokens (B, T), given targets (B, S).
            weights: "raw", "averaged" or `runtime.ROUNDTRIP`.
            step: steps taken.
            elapsed: seconds of training.
        """
        strides = {"plain": self.settings.eval_seq_len}
        slides = self.settings.sliding_weights == "all" or weights == ROUNDTRIP
        if self.settings.eval_stride and slides:
            strides["sliding"] = self.settings.eval_stride
        for method, stride in strides.items():
            score = self.measure(score_fn, weights, method, stride, step, elapsed)
            self._keep(weights, method, score)

    def measure(
        self,
        score_fn: ScoreFunction,
        weights: str,
        method: str,
        stride: int,
        step: int,
        elapsed: float,
    ) -> Score:
        """Score once, and log it; arguments as in ``final``, with a name for the method."""
        plan = WindowPlan.of(self.settings, stride)
        score = evaluate(score_fn, self.split, plan, self._scoring(weights, method))
        self._log(score, weights, method, step, elapsed)
        return score

    def adapting(self, model: GPT, backend: str, weights: str, step: int, elapsed: float) -> None:
        """Score the weights of ``model`` by test-time training, if it is enabled.

        Args:
            model: restored bit for bit.
            backend: that it computes with, as ``kernels.operations`` takes it.
            weights, step, elapsed: as in ``final``.
        """
        if not self.settings.ttt_enabled:
            return
        method = f"TTT {self.settings.ttt_method}"
        scoring = self._scoring(weights, method)
        score = score_adapting(model, backend, self.split, self.settings, scoring)
        self._log(score, weights, method, step, elapsed)
        self._keep(weights, method, score)

    def _scoring(self, weights: str, method: str) -> Scoring:
        def progress(done: int, parts: int) -> None:
            self.progress.phase(f"evaluating {weights} weights, {method}: {done / parts:.0%}")

        return Scoring(self.world, progress)

    def _log(self, score: Score, weights: str, method: str, step: int, elapsed: float) -> None:
        if self.folder:
            fields = {"weights": weights, "method": method, **score.row()}
            self.folder.log("validation", step=step, elapsed=elapsed, **fields)

    def _keep(self, weights: str, method: str, score: Score) -> None:
        """Keep a final score; the artifact's also target by target, for whoever audits it."""
        name = f"{weights}, {method}"
        self.rows[name] = score.row()
        if self.folder and weights == ROUNDTRIP:
            self.folder.keep_nats(name, score.of_targets.cpu().numpy())

    def table(self) -> str:
        """Return the final scores as plain text, a row each."""
        lines = [f"{'weights, method':24} {'bpb':>8} {'nats':>8} {'seconds':>8}"]
        lines += [
            f"{name:24} {row['bpb']:8.4f} {row['nats']:8.4f} {row['seconds']:8.1f}"
            for name, row in self.rows.items()
        ]
        return "\n".join(lines)
