"""What the first steps of a script find: it does not start, scores otherwise, reads validation."""

from pathlib import Path

import pytest

from artifact.submission.first_steps import first_steps
from errors import InputError
from evaluation.audit.shuffled import validation_unseen
from settings import Settings

SETTINGS = Settings(vocab_size=300)
# A script that trains nothing: what it writes and prints is all that is looked at.
SCRIPT = """
import sys
from pathlib import Path
options = sys.argv[1:]
data = Path(options[options.index("--data") + 1])
if options[0] == "--evaluate":
    print("bpb SCORE")
    sys.exit()
assert Path.cwd() == Path("/")
run = Path(options[options.index("--run-dir") + 1])
run.mkdir()
(run / "artifact.bin").write_bytes(CONTENT)
print("1.2345")
"""
HONEST = "(data / 'fineweb_train_000000.bin').read_bytes()"
CHEAT = "(data / 'fineweb_val_000000.bin').read_bytes()"


def script(content: str = HONEST, score: str = "1.234567") -> bytes:
    return SCRIPT.replace("CONTENT", content).replace("SCORE", score).encode()


def test_a_script_that_does_as_it_should_is_let_pass(tmp_path: Path) -> None:
    first_steps(script(), SETTINGS)
    (tmp_path / "train_gpt.py").write_bytes(script())
    assert validation_unseen(tmp_path / "train_gpt.py", SETTINGS).passed


def test_an_artifact_made_of_validation_tokens_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="artifact depends on the validation tokens"):
        first_steps(script(CHEAT), SETTINGS)
    (tmp_path / "train_gpt.py").write_bytes(script(CHEAT))
    assert validation_unseen(tmp_path / "train_gpt.py", SETTINGS).passed is False


def test_another_score_is_found() -> None:
    with pytest.raises(InputError, match="scores its artifact otherwise"):
        first_steps(script(score="1.2222"), SETTINGS)


def test_a_script_that_fails_is_one_line() -> None:
    with pytest.raises(InputError, match="does not start: ModuleNotFoundError"):
        first_steps(b"import absent_module", SETTINGS)
