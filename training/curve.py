"""Validations of a run that names no interval: when they come, and how many tokens they score."""

from settings import Settings

SHARE = 0.01  # of the time of the steps that all points together take at most
PER_TOKEN = 2  # validation tokens in the time of a training token, at least


class Curve:
    """Points at even shares of a run, each a score of the split's first tokens.

    All points score the same tokens. A run too short for one window at each point has no points.

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
        passed = int(progress * (self._points + 1))
        if passed <= self._before or not self._points:
            return 0
        self._before = passed
        if not self._tokens:
            affordable = SHARE * PER_TOKEN / self._points * trained / progress
            # Windows beyond a whole batch would cost a second one.
            unit = self._batch if affordable > self._batch else self._window
            self._tokens = int(affordable) // unit * unit
        return self._tokens
