"""A few of the damaged artifacts; `python -m bench artifact_fuzz` throws all 10,000."""

import random
from pathlib import Path

from bench.studies.artifact_fuzz import fuzz, mutated, outcome, sound_file


def test_damaged_artifacts_are_refused_or_read() -> None:
    outcomes, longest = fuzz(400, seed=1, tell=lambda done: None)
    assert set(outcomes) == {"read", "InputError"}
    assert outcomes["InputError"] > 360
    assert longest < 10


def test_the_sound_file_is_read_and_damage_reaches_behind_its_hash(tmp_path: Path) -> None:
    blob = sound_file()
    assert outcome(blob, tmp_path) == "read"
    draw = random.Random(0)
    hashes = {outcome_text(mutated(blob, draw), tmp_path) for _ in range(80)}
    assert len(hashes) > 10  # not one and the same complaint


def outcome_text(blob: bytes, folder: Path) -> str:
    """What the reader says of a file, without numbers."""
    from artifact.export import load
    from errors import InputError

    path = folder / "artifact.bin"
    path.write_bytes(blob)
    try:
        load(path)
    except InputError as error:
        return "".join(letter for letter in str(error) if not letter.isdigit())
    return "read"
