"""A run takes the vocabulary of its data's tokenizer, GPT-2's included."""

import json
import tomllib
from pathlib import Path

from data.byte_pairs import content_of
from data.shards import shard_name, write_shard
from evaluation.__main__ import main
from tests.data.encodings import Encoding, documents_of
from tests.train.runs import NETWORK, train


def test_a_folder_of_byte_pairs_trains_and_scores_without_options(tmp_path: Path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    tokens = documents_of(["bada 中 kolu da\n" * 20, "<|endoftext|> mi sa"] * 9)
    for split in ("train", "val"):
        write_shard(data / shard_name(split, 0), tokens)
    (data / "tokenizer.tiktoken").write_bytes(content_of(Encoding()))
    (tmp_path / "run.toml").write_text(NETWORK.replace("vocab_size = 300\n", "", 1))
    few = ["--iterations", "2", "--calibration-tokens", "0", "--eval-stride", "0"]
    done = train("--config", tmp_path / "run.toml", "--data", data, "--run-dir", run, *few)
    assert done.returncode == 0, done.stderr
    shown = train("--config", tmp_path / "run.toml", "--data", data, "--explain").stdout
    assert "262" in shown.split("tok_emb", 1)[1][:60], "the tokenizer's rows, not the default's"
    settings = tomllib.loads((run / "settings.toml").read_text())
    assert (settings["vocab_size"], settings["bos_id"]) == (262, 261)
    row = json.loads((run / "summary.json").read_text())["scores"]["roundtrip, plain"]
    assert main([str(run / "artifact.bin"), "--data", str(data), "--device", "cpu"]) == 0
    assert f"bpb {row['bpb']:.6f}" in capsys.readouterr().out
    main([str(run / "artifact.bin"), "--data", str(data), "--tokenizer", "gpt2"])
    assert "package tiktoken is needed for gpt2" in capsys.readouterr().err
