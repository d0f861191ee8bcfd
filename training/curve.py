"""Validations of a run that names no interval: when they come, and how many tokens they score."""

from settings import Settings

SHARE = 0.01  # of the time of the steps that all points together take at most
PER_TOKEN = 2  # validation tokens in the time of a training token, at least
FEWEST = 4096  # tokens of a point: fewer are a part of one document, far from the split's score


class Curve:
    """Points at even shares of a run, each a score of the split's first tokens.

    All points score the same tokens: whole windows, of ``FEWEST`` tokens or more before rounding.
    A short run has fewer points, or none.

    Args:
        settings: of the run; with ``val_loss_every`` there are no points.
    """

    def __init__(self, settings: Settings) -> None:
        self._points = 0 if settings.val_loss_every else settings.val_points
        self._window, self._batch = settings.eval_seq_len, settings.val_batch_size
        self._before = self._tokens = 0

    def tokens_due(self, progress: float, trained: int) -> int:
        """Return how many tokens to score after a step; 0: none.

        Args:
            progress: fraction of the run at the step.
            trained: tokens that training has seen so far.
        """
        if not self._points or progress * (self._points + 1) < 1:
            return 0
        if not self._tokens:
            affordable = SHARE * PER_TOKEN * trained / progress
            self._points = min(self._points, int(affordable) // max(self._window, FEWEST))
            if not self._points:
                return 0
            each = int(affordable) // self._points
            # Windows beyond a whole batch would cost a second one.
            unit = self._batch if each > self._batch else self._window
            self._tokens = each // unit * unit
        passed = int(progress * (self._points + 1))
        if passed <= self._before:
            return 0
        self._before = passed
        return self._tokens
