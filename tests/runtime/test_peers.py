"""Ranks tell each other what no collective can."""

import time

import pytest
from torch.distributed import HashStore

from runtime import peers
from runtime.peers import Peers


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def exits(monkeypatch):
    """Let ranks be threads of this process that look often; return the codes that they end with."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise RuntimeError

    short = {"POLL": 0.005, "BEAT": 0.01, "SILENCE": 0.5, "WAIT": 0.1, "LEAVING": 5.0}
    for name, seconds in short.items():
        monkeypatch.setattr(peers, name, seconds)
    monkeypatch.setattr("runtime.peers.os._exit", end)
    return codes


def test_who_fails_speaks_last_and_the_others_end_quietly(exits):
    store = HashStore()
    ranks = [Peers(store, rank, 3) for rank in range(3)]
    farewells = []
    ranks[0].farewell = lambda number: farewells.append(number) or 0
    began = time.monotonic()
    ranks[1].end(0)
    assert time.monotonic() - began < 4, "the others have not said that they end"
    assert exits == [0, 0]
    assert farewells == [0]


def test_a_signal_of_one_rank_ends_all_with_its_code(exits):
    store = HashStore()
    ranks = [Peers(store, rank, 2) for rank in range(2)]
    ranks[1].end(15)
    assert exits == [143]


def test_rank_0_names_an_error_that_every_rank_finds(exits, monkeypatch):
    store = HashStore()
    monkeypatch.setattr(peers, "POLL", 60.0)
    first, second = (Peers(store, rank, 2) for rank in range(2))
    monkeypatch.setattr(peers, "LEAVING", 0.0)
    first.end(0, wait=True)
    with pytest.raises(RuntimeError):
        second.end(0, wait=True)
    assert exits == [0]


def test_a_rank_that_hangs_is_named(exits):
    """A rank that hung was waited for 30 minutes without a word."""
    store, said = HashStore(), []
    ranks = [Peers(store, rank, 3) for rank in range(3)]
    for rank in ranks:
        rank.tell = said.append
        rank.met = 7 - (rank.rank == 1)
    until = time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    for rank in ranks:
        rank.stop()
    assert len(said) in (2, 3)
    assert said[0].startswith("rank 0 has waited 0 s for rank 1")


def test_a_rank_is_lost_when_it_is_silent(exits):
    store = HashStore()
    first, second = (Peers(store, rank, 2) for rank in range(2))
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert not first.lost()
        time.sleep(0.05)
    second.stop()
    time.sleep(1.0)
    assert first.lost()
    first.stop()
    assert exits == []


@pytest.mark.parametrize("lost", [True, False])
def test_the_first_to_end_says_how_to_go_on_if_rank_0_does_not(lost, exits, monkeypatch):
    """It waited for rank 0 for less time than a rank is silent, then left without a word."""
    monkeypatch.setattr(peers, "LEAVING", 0.3)
    store = HashStore()
    ranks = [Peers(store, rank, 3) for rank in range(3)]
    ranks[0].tell_how_to_resume("train.py --resume run")
    if lost:
        ranks[0]._ended.set()
    assert not ranks[2].lost()  # the seconds of silence begin
    ranks[2].end(15)
    assert exits == ([143] if lost else [143, 143])
    said = "rank 0 is lost; go on with: train.py --resume run"
    assert ranks[2].last_words() == (said if lost else "")


class Gone(HashStore):
    """A store that its rank has taken with it."""

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        raise RuntimeError("Connection reset by peer")

    def add(self, key: str, value: int) -> int:
        raise RuntimeError("Broken pipe")


def test_a_rank_whose_store_is_gone_says_its_own_error(exits):
    """Its last words were a traceback of the store, and a signal's exit code became 1."""
    Peers(Gone(), 1, 2).end(15)
    assert exits == []
