"""Let signals end a program as Ctrl-C does."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a block as Ctrl-C does, so that nothing begun is left behind.

    Yields:
        the number of the signal, once it has come.
    """
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    caught = [each for each in numbers if signal.getsignal(each) == signal.SIG_DFL]
    for each in caught:
        signal.signal(each, end)
    try:
        yield received
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
