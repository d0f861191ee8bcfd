"""One thread for networks so small that a second costs more in waiting than it computes."""

from tests.small import one_thread

__all__ = ["one_thread"]
