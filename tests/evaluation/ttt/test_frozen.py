"""What cannot be frozen or shared is refused before a run opens its data."""

import pytest

import train
from model.parameters import parameters
from settings.load import load_settings

NETWORK = ("--ttt-enabled", "--preset", "tiny", "--no-swarm")


@pytest.mark.parametrize("method", ["sgd", "both"])
@pytest.mark.parametrize(
    ("given", "ranks", "words"),
    [
        (["--ttt-freeze-blocks", "5"], 1, "ttt_freeze_blocks 5, but the network has 4 layers"),
        (["--ttt-freeze", "tok_emb,no"], 1, "ttt_freeze: no parameter no; there are: tok_emb"),
        (["--ttt-freeze", "mtp_heads"], 1, "ttt_freeze: no parameter mtp_heads"),
        (["--ttt-batch-seqs", "4"], 3, "a TTT batch of 4 windows cannot be shared by 3 ranks"),
    ],
)
def test_a_run_refuses_it_at_once(given, ranks, words, method, capsys, monkeypatch):
    """These were refused after training, when all scores but the last were made."""
    monkeypatch.setattr(train, "ranks_of", lambda environment: ranks)
    batch = ["--train-batch-tokens", "3072", "--train-seq-len", "256"]
    assert train.main([*NETWORK, *batch, "--ttt-method", method, *given]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said


def test_a_run_does_not_freeze_all_parameters(capsys):
    config = load_settings([*NETWORK], {}).architecture()
    names = [each.name for each in parameters(config) if each.storage != "none"]
    given = [*NETWORK, "--ttt-method", "both", "--ttt-freeze"]
    assert train.main([*given, ",".join(names)]) == 2
    assert "ttt_freeze names all parameters" in capsys.readouterr().err
    assert train.main([*given, ",".join(names[1:])]) == 2
    assert "no data" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--ttt-freeze-blocks", "4"], ["--ttt-freeze", "tok_emb"]])
def test_what_can_be_frozen_is(given, capsys):
    assert train.main([*NETWORK, *given]) == 2
    assert "no data" in capsys.readouterr().err


def test_adapters_freeze_nothing(capsys):
    assert train.main([*NETWORK, "--ttt-method", "lora", "--ttt-freeze-blocks", "99"]) == 2
    assert "no data" in capsys.readouterr().err
