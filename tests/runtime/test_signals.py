"""A signal stops the program where it is, or where it is ready to stop."""

import os
import signal
import time

import pytest

from runtime import signals
from runtime.signals import SIGNALS, STOPPING, Interruption, nothing_kept


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_raised_where_it_finds_the_program(number, capsys):
    before = [signal.getsignal(each) for each in STOPPING]
    with SIGNALS:
        SIGNALS.last_words = lambda: "kept: all"
        with pytest.raises(Interruption) as stopped:
            send(number)
        send(signal.SIGTERM)  # torchrun repeats a terminal's signal: it changes nothing
        assert SIGNALS.leave(stopped.value.signal_number) == 128 + number
        SIGNALS.leave(number)
    assert capsys.readouterr().out == "kept: all\n"
    assert [signal.getsignal(each) for each in STOPPING] == before


def test_a_deferred_signal_waits_for_its_owner():
    reached = []
    with SIGNALS, pytest.raises(Interruption):
        with SIGNALS, SIGNALS.deferred() as inner:
            with SIGNALS.deferred():
                send(signal.SIGHUP)
            send(signal.SIGINT)
            reached.append(inner.received)
        pytest.fail("the signal was forgotten")
    assert reached == [signal.SIGHUP]
    with SIGNALS:
        assert SIGNALS.received == 0


def test_a_later_second_signal_ends_the_process(monkeypatch):
    killed = []
    monkeypatch.setattr(signals, "GRACE", 0.0)
    with SIGNALS, pytest.raises(Interruption), SIGNALS.deferred():
        send(signal.SIGTERM)
        time.sleep(0.01)
        monkeypatch.setattr("runtime.signals.os.kill", lambda *given: killed.append(given))
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert killed == [(os.getpid(), signal.SIGTERM)]


@pytest.fixture
def ended(monkeypatch) -> list[int]:
    """Have little patience; return the codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(signals, "PATIENCE", 0.1)
    monkeypatch.setattr(signals, "LOOK", 0.01)
    monkeypatch.setattr("runtime.signals.os._exit", codes.append)
    return codes


def test_an_owner_that_has_noticed_is_awaited_unless_a_rank_is_lost(ended):
    lost: list[int] = []
    with SIGNALS, pytest.raises(Interruption), SIGNALS.deferred():
        SIGNALS.lost = lambda: bool(lost)
        send(signal.SIGTERM)
        time.sleep(0.3)
        assert ended == []
        lost.append(1)
        with SIGNALS.saving():
            time.sleep(0.3)
            assert ended == []
        time.sleep(0.3)
        assert ended == [128 + signal.SIGTERM]


def test_an_owner_that_has_reacted_is_awaited(ended):
    with SIGNALS, pytest.raises(Interruption), SIGNALS.deferred():
        SIGNALS.lost = lambda: True
        send(signal.SIGTERM)
        SIGNALS.react()
        time.sleep(0.3)
    assert ended == []


@pytest.mark.parametrize(("signalled", "ranks"), [(True, 2), (False, 2), (True, 1)])
def test_a_collective_that_another_rank_left_after_a_signal_is_no_error(signalled, ranks):
    """The second rank to leave ended with a traceback, in place of the words of its signal."""
    raised = Interruption if signalled and ranks > 1 else RuntimeError
    with SIGNALS:
        SIGNALS.lost = (lambda: False) if ranks > 1 else None
        with pytest.raises(raised), SIGNALS.deferred(), SIGNALS.deferred():
            if signalled:
                send(signal.SIGTERM)
            raise RuntimeError("Connection closed by peer")
        SIGNALS.react()


def test_one_process_awaits_an_owner_that_has_noticed(ended):
    with SIGNALS, pytest.raises(Interruption), SIGNALS.deferred():
        send(signal.SIGTERM)
        time.sleep(0.3)
    assert ended == []


def test_a_main_thread_inside_a_library_is_awaited_only_while_it_saves(ended, capsys):
    with SIGNALS:
        # As the interpreter does when a signal comes; its handler runs only in the main thread.
        with SIGNALS.saving():
            os.write(SIGNALS._wake_up, bytes([signal.SIGTERM]))
            time.sleep(0.3)
            assert ended == []
        until = time.monotonic() + 10
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
    assert ended == [128 + signal.SIGTERM]
    assert "nothing was kept" in capsys.readouterr().out


def test_of_ranks_without_a_folder_the_first_speaks(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "nothing was kept" in nothing_kept()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert nothing_kept() == ""
