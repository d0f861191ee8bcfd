"""The entrant's process in tests: it scores an artifact as a run does, then answers the judge.

A script, started as a fork. Arguments: the entrant's code, the judge's ``worker.py``, the artifact,
the data, the run's settings as JSON, and the two pipes.
"""

import json
import os
import runpy
import sys
from pathlib import Path


def leave_a_run(artifact: Path, data: Path, values: dict) -> None:
    """Score an artifact by every method of the settings, and write its run's folder around it."""
    import torch

    from data.inputs import open_scored
    from evaluation.score import Split
    from evaluation.scoreboard import Scoreboard
    from evaluation.subject import network_of
    from files import write_text
    from runtime import ROUNDTRIP
    from runtime.progress import Progress
    from runtime.ranks import World
    from runtime.records import SETTINGS
    from runtime.run_folder import RunFolder, to_toml
    from settings import Settings

    world = World.single(torch.device("cpu"))
    settings, model, backend = network_of(artifact, Settings(**values), world)
    inputs = open_scored(data, None, settings.vocab_size, settings.bos_id)
    folder = RunFolder(artifact.parent, os.open(artifact.parent, os.O_RDONLY))
    write_text(folder.path / SETTINGS, to_toml(values))
    split = Split(inputs.validation, inputs.byte_table, settings.val_max_tokens)
    scores = Scoreboard(settings, split, world, folder, Progress(None, None, False))
    scores.final(model.score, ROUNDTRIP, 1, 1.0)
    scores.adapting(model, backend, ROUNDTRIP, 1, 1.0)
    facts = {"steps": 1, "train_seconds": 1.0, "artifact_bytes": artifact.stat().st_size}
    folder.write_summary({**facts, "code_bytes": 1, "scores": scores.rows})


if __name__ == "__main__":
    code, worker, artifact, data, values, *pipes = sys.argv[1:]
    sys.path[0] = code
    leave_a_run(Path(artifact), Path(data), json.loads(values))
    sys.argv = [worker, code, *pipes]
    runpy.run_path(worker, run_name="__main__")
