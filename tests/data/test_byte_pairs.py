"""GPT-2's vocabulary by tiktoken: made into a folder, inspected, and never needed elsewhere."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.byte_pairs import BytePairTokenizer, content_of
from data.inputs import open_inputs
from data.inspection import examine
from data.prepare import Options, prepare
from data.readers import corpus
from data.shards import shard_name, write_shard
from data.vocabulary import read_tokenizer
from errors import InputError
from tests.data.encodings import Encoding, install

TEXTS = ["bada kolu 中 🙂\n", "<|endoftext|> ba"]
GPT2 = Path("gpt2")


def test_bytes_are_the_table_s_own_and_text_comes_back(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    tokenizer = read_tokenizer(GPT2)
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (262, 261)
    tokens = tokenizer.encode_documents(TEXTS)
    assert np.count_nonzero(tokens == 261) == 2, "text of a special token is text"
    counted = tokenizer.byte_table().count(tokens[:-1], tokens[1:])
    assert counted.sum() == sum(len(text.encode()) for text in TEXTS)
    assert tokenizer.decode(tokens.tolist()) == "".join(TEXTS)


def test_a_folder_needs_the_package_to_encode_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    for name, text in zip("ab", TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    corpora = [corpus((tmp_path / f"{name}.txt",)) for name in "ab"]
    out = tmp_path / "out"
    prepare(corpora[0], corpora[1], Options(GPT2), out, Console(quiet=True))
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    facts = examine(out, None)
    assert [split.text_bytes for split in facts.splits] == [len(text.encode()) for text in TEXTS]
    inputs = open_inputs(out, None, None, None)
    assert (inputs.vocab_size, inputs.bos_id, inputs.verified) == (262, 261, True)
    with pytest.raises(InputError, match="package tiktoken is needed for gpt2"):
        open_inputs(out, GPT2, None, None)


def test_shards_of_another_program_are_read_by_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """modded-nanogpt's shards have this format, and no tokenizer beside them."""
    install(monkeypatch)
    tokens = np.array([261, *Encoding().encode_ordinary(TEXTS[0])], np.uint16)
    for split in ("train", "val"):
        write_shard(tmp_path / shard_name(split, 0), tokens)
    with pytest.raises(InputError, match="gpt2 for shards of GPT-2's tokens"):
        open_inputs(tmp_path, None, None, None)
    inputs = open_inputs(tmp_path, GPT2, None, None)
    assert inputs.byte_table.count(tokens[:-1], tokens[1:]).sum() == len(TEXTS[0].encode())
    assert examine(tmp_path, GPT2).splits[1].documents == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bos": 5}, "token 5 cannot begin documents"),
        ({"bos": 999}, "token 999 cannot begin documents"),
        ({"tokens": ["!"]}, "no byte-pair vocabulary"),
        ({"tokens": None}, "no byte-pair vocabulary"),
        ({"tokens": []}, "token 261 cannot begin documents"),
        ({"tokens": [None] * 262}, "lack a byte"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, change: dict[str, object], said: str):
    path = tmp_path / "x.tiktoken"
    path.write_text(json.dumps(json.loads(content_of(Encoding())) | change))
    with pytest.raises(InputError, match=f"x.tiktoken: .*{said}") as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_an_encoding_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    with pytest.raises(InputError, match=r"cannot get the encoding r50k_base: no network$"):
        read_tokenizer(Path("r50k_base"))
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(InputError, match="pip install tiktoken"):
        read_tokenizer(Path("r50k_base"))


def test_the_package_itself_encodes_by_the_file(tmp_path: Path):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([each]): each for each in range(256)} | {b"ba": 256, b" ba": 257}
    made = tiktoken.Encoding(
        "small", pat_str=r" ?\w+|\W", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    (tmp_path / "x.tiktoken").write_bytes(content_of(made))
    tokenizer = BytePairTokenizer(tmp_path / "x.tiktoken")
    assert tokenizer.encode("ba ba<|endoftext|>中") == made.encode_ordinary("ba ba<|endoftext|>中")
    assert tokenizer.encode("ba ba") == [256, 257]
