"""Results on disk, and a comparison with them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.harness.bar import Result
from bench.harness.record import write_json
from errors import InputError
from files import PROJECT

COMMITTED = PROJECT / "bench" / "results"
ALLOWED_LOSS = 0.05  # of a ratio to a peer


def baseline_name(device: str) -> str:
    """Return the file name of a kind of GPU, as baseline-nvidia-h200.json."""
    return f"baseline-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def save(path: Path, results: Sequence[Result], about: Mapping[str, str]) -> None:
    """Write results as a baseline."""
    rows = [asdict(result) for result in results]
    write_json(path, {"about": dict(about), "results": rows})


def losses(path: Path, results: Sequence[Result], device: str) -> list[str]:
    """Return a line for each ratio that is more than 5 % below the baseline's.

    Ratios to peers of the same run hold on other machines; times do not.

    Raises:
        InputError: no baseline, or one of another device.
    """
    try:
        baseline = json.loads(path.read_text(encoding="utf-8"))
        before = {row["name"]: Result(**row) for row in baseline["results"]}
        measured_on = baseline["about"]["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no baseline: {error}") from None
    if measured_on != device:
        raise InputError(f"{path} was measured on {measured_on}, this is {device}")
    found = []
    for result in results:
        old = before[result.name].ratios if result.name in before else {}
        for peer, ratio in result.ratios.items():
            if ratio < (1 - ALLOWED_LOSS) * old.get(peer, -math.inf):
                found.append(f"{result.name}: {ratio:.3f} of {peer}, was {old[peer]:.3f}")
    return found
