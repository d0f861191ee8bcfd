"""What the first steps of a script find: it does not start, scores otherwise, reads validation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from artifact.submission.first_steps import LITTLE, _make_data, first_steps
from data.shards import TokenStream
from data.tokenizer import TOKENIZER_NAME
from errors import InputError
from evaluation.audit.shuffled import SMALL, validation_unseen
from files import PROJECT, sha256
from knowledge.edges import read_edges
from runtime.ranks import World
from settings import Settings
from settings.load import load_settings
from training.held_out import FEWEST, HeldOut

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
print("1.2346")
"""
HONEST = "(data / 'fineweb_train_000000.bin').read_bytes()"
CHEAT = "(data / 'fineweb_val_000000.bin').read_bytes()"
# A script of which one process may fail, once the other one runs, which then never ends well.
WAITS = """
import os, sys, tempfile, time
from pathlib import Path
name = Path(sys.argv[sys.argv.index("--run-dir") + 1]).name
told = Path(TOLD)
tempfile.mkdtemp()
(told / f"{name}.part").write_text(f"{os.getpid()} {tempfile.gettempdir()}")
(told / f"{name}.part").rename(told / name)
while not (told / "run").exists() or not (told / "again").exists():
    time.sleep(0.01)
if name == FAILS:
    sys.exit("failed")
time.sleep(60)
(told / "ended").touch()
"""


def script(content: str = HONEST, score: str = "1.234567") -> bytes:
    return SCRIPT.replace("CONTENT", content).replace("SCORE", score).encode()


def waits(told: Path, fails: str = "") -> bytes:
    return WAITS.replace("TOLD", repr(str(told))).replace("FAILS", repr(fails)).encode()


def check_nothing_is_left(told: Path) -> None:
    """Check that both processes were killed before they ended, with their temporary files."""
    for name in ("run", "again"):
        pid, folder = (told / name).read_text().split()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
        assert not Path(folder).exists()
    assert not (told / "ended").exists()


def test_a_script_that_does_as_it_should_is_let_pass(tmp_path: Path) -> None:
    said: list[str] = []
    first_steps(script(), SETTINGS, said.append)
    assert [line.split()[0] for line in said] == ["first", "second", "scoring", "waiting"]
    (tmp_path / "train_gpt.py").write_bytes(script())
    assert validation_unseen(tmp_path / "train_gpt.py").passed


def test_the_script_sees_no_environment_of_the_user_and_two_runs_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED", "1")
    told = tmp_path / "told.json"
    write = f"import json, os; Path({str(told)!r}).write_text(json.dumps({{**os.environ}}))\n"
    first_steps(script() + write.encode(), SETTINGS)
    found = json.loads(told.read_text())
    clean = {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "TMPDIR", "OMP_NUM_THREADS"}
    assert clean <= found.keys() <= clean | {"LC_CTYPE"}  # which Python adds
    cores = len(os.sched_getaffinity(0))
    assert 1 <= int(found["OMP_NUM_THREADS"]) <= max(1, cores / 2)


def test_an_artifact_made_of_validation_tokens_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="artifact depends on the validation tokens"):
        first_steps(script(CHEAT), SETTINGS)
    (tmp_path / "train_gpt.py").write_bytes(script(CHEAT))
    assert validation_unseen(tmp_path / "train_gpt.py").passed is False


def test_code_that_does_not_train_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text("raise SystemExit(3)")
    check = validation_unseen(tmp_path / "train_gpt.py")
    assert check.passed is False and "does not start" in check.found


def test_whatever_a_file_carries_along_a_small_network_is_trained(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    write = f"import json; Path({str(told)!r}).write_text(json.dumps(options))\n"
    (tmp_path / "train_gpt.py").write_bytes(script() + write.encode())
    assert validation_unseen(tmp_path / "train_gpt.py").passed
    settings = load_settings(["--preset", "sprint", *json.loads(told.read_text())], {})
    assert settings.architecture() == SMALL.architecture()


def test_a_network_with_edges_gets_some_of_the_made_tokenizer(tmp_path: Path) -> None:
    read = "Path(options[options.index('--edges') + 1]).read_bytes()"
    kept = f"Path({str(tmp_path)!r}, 'kept.edges').write_bytes({read})\n"
    kept += f"Path({str(tmp_path)!r}, 'tokenizer').write_bytes((data / TOKENIZER).read_bytes())\n"
    settings = Settings(vocab_size=300, bigram_vocab_size=700, bigram_rows="mixed")
    first_steps(script() + kept.replace("TOKENIZER", repr(TOKENIZER_NAME)).encode(), settings)
    found = read_edges(tmp_path / "kept.edges")
    assert (found.kind, len(found.tokens)) == ("mixed", settings.num_edges)
    assert found.tokenizer == sha256(tmp_path / "tokenizer")
    assert max(found.tokens + found.predecessors) < 300


def test_the_made_text_is_enough_to_hold_windows_out(tmp_path: Path) -> None:
    """No run with a readout or probes could be submitted, because it was too short for them."""
    settings = load_settings([*LITTLE, "--readout"], {})
    _make_data(tmp_path / "data", 300, 1)
    stream = TokenStream.open(tmp_path / "data", "train", 300)
    held_out = HeldOut(stream, settings, World.single(torch.device("cpu")))
    assert held_out.count >= FEWEST
    assert len(held_out.rest) > settings.iterations * settings.train_batch_tokens


@pytest.mark.parametrize("score", ["1.234551", "1.234649"])
def test_a_score_may_be_rounded_up_and_down(score: str) -> None:
    first_steps(script(score=score), SETTINGS)


@pytest.mark.parametrize("score", ["1.2222", "1.234500", "1.234700"])
def test_another_score_is_found(score: str) -> None:
    with pytest.raises(InputError, match="scores its artifact otherwise"):
        first_steps(script(score=score), SETTINGS)


def test_two_steps_may_diverge_if_the_run_came_to_its_end() -> None:
    end = "(run / 'summary.json').write_text('')\nsys.exit(1)\n"
    first_steps(script() + end.encode(), SETTINGS)
    with pytest.raises(InputError, match="does not start"):
        first_steps(script() + b"sys.exit(1)\n", SETTINGS)


def test_a_script_that_fails_is_one_line() -> None:
    with pytest.raises(InputError, match="does not start: ModuleNotFoundError"):
        first_steps(b"import absent_module", SETTINGS)


@pytest.mark.parametrize("fails", ["run", "again"])
def test_a_run_that_fails_ends_the_other_one(tmp_path: Path, fails: str) -> None:
    with pytest.raises(InputError, match="does not start: failed"):
        first_steps(waits(tmp_path, fails), SETTINGS)
    check_nothing_is_left(tmp_path)


def test_an_interrupt_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(waits(tmp_path))
    (tmp_path / "tmp").mkdir()
    code = f"""
import signal
from pathlib import Path
from artifact.submission.first_steps import first_steps
from settings import Settings
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
first_steps(Path({str(tmp_path / "script")!r}).read_bytes(), Settings(vocab_size=300))
"""
    clean = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, env=clean, stderr=subprocess.DEVNULL
    ) as started:
        while not all((tmp_path / name).exists() for name in ("run", "again")):
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
    assert started.returncode == -signal.SIGINT
    check_nothing_is_left(tmp_path)
    assert not [*(tmp_path / "tmp").iterdir()]
