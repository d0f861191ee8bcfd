"""Pictures of runs: one run in detail, or several compared; drawn from their logs alone.

    python -m runtime.plot RUN [RUN...] --out compare.png

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

import os

# A notebook exports a backend that this environment may lack. Pictures are files: they need none.
os.environ["MPLBACKEND"] = "agg"

from runtime.plot.compare import plot_runs
from runtime.plot.events import Events
from runtime.plot.run import plot_run

__all__ = ["Events", "plot_run", "plot_runs"]
