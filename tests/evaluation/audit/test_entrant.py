"""The entrant's process ends with its judge, without a word."""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from errors import InputError
from evaluation.__main__ import main
from evaluation.audit.entrant import Entrant
from files import PROJECT


def test_ctrl_c_does_not_reach_it_and_a_busy_one_ends_at_once():
    """It printed a traceback of its own, and the judge waited for it."""
    entrant = Entrant.start(PROJECT)
    assert entrant.process and entrant.folder
    assert os.getpgid(entrant.process.pid) != os.getpgid(0)
    entrant.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    entrant.close()
    assert time.monotonic() - began < 30
    assert entrant.process.returncode == -signal.SIGKILL
    assert not Path(entrant.folder.name).exists()


def test_an_interrupt_before_it_has_opened_its_pipes_ends_it(tmp_path, monkeypatch):
    """It waited for its judge, or printed a traceback that its folder was gone."""
    (tmp_path / "worker.py").write_text(
        "import os, sys, time\n"
        f"open({str(tmp_path / 'part')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'told')!r})\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr("evaluation.audit.entrant.WORKER", tmp_path / "worker.py")

    def interrupt() -> None:
        while not (tmp_path / "told").exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Entrant.start(PROJECT)
    thread.join()
    signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "told").read_text()), 0)


def test_a_process_that_ends_at_its_start_is_one_line(tmp_path, monkeypatch):
    """The judge waited for it to open its pipes, for ever."""
    (tmp_path / "worker.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr("evaluation.audit.entrant.WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"the entrant's process ended at its start \(3\)"):
        Entrant.start(PROJECT)
    assert [each.name for each in tmp_path.iterdir()] == ["worker.py"]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_audit_as_an_interrupt_does(number: int, monkeypatch, capsys):
    """SIGTERM left a folder and a process with a traceback."""
    monkeypatch.setattr("evaluation.audit.audit.audit", lambda *_: os.kill(os.getpid(), number))
    assert main(["audit", "artifact"]) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
