"""The table and the picture that end a run. A contest's file has neither."""

from collections.abc import Callable
from pathlib import Path

from errors import InputError
from runtime.run_folder import RunFolder
from swarm.decision_log import read
from swarm.report import decisions
from terminal import as_text

Say = Callable[[str], None]


def show(folder: RunFolder, say: Say) -> None:
    """Say the table of the swarm's decisions and draw the picture of a run.

    Args:
        folder: of the run.
        say: called with the table, and with a line for what cannot be shown.
    """
    tabulate(folder.decisions, say)
    draw(folder, say)


def tabulate(log: Path, say: Say) -> None:
    """Say the table of the swarm's decisions, if their log is there and whole."""
    if log.is_file():
        try:
            say(as_text(decisions(list(read(log)))))
        except InputError as error:
            say(f"no table of decisions: {error}")


def draw(folder: RunFolder, say: Say) -> None:
    """Draw the run's picture; a run without one is complete."""
    try:
        from runtime.plot import plot_run

        plot_run(folder.log_file, folder.plot)
    except Exception as error:  # of a foreign library: the picture is decoration
        say(f"no {folder.plot.name}: {error}")
