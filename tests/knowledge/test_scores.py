"""The file of token scores: small enough, exact, and whole or refused."""

import hashlib
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from errors import InputError
from files import PROJECT
from knowledge.packing import best, pack, write_scores
from knowledge.scores import (
    BUILT_IN,
    HEADER,
    MAGIC,
    MOST_BYTES,
    MOST_SCORES,
    SCORE_BITS,
    TOP_CODE,
    TokenScores,
    read_scores,
    scores_for,
    unpack,
)

DIGEST = hashlib.sha256(b"tokenizer").hexdigest()
LARGEST_VOCABULARY = 65_535


def random_scores(vocab_size: int, count: int, seed: int = 0, digest: str = DIGEST) -> TokenScores:
    draw = np.random.default_rng([vocab_size, count, seed])
    values = np.full(vocab_size, np.nan)
    values[draw.choice(vocab_size, count, replace=False)] = draw.random(count)
    return best(digest, values)


def equal(one: TokenScores, other: TokenScores) -> bool:
    same = (one.tokenizer, one.vocab_size) == (other.tokenizer, other.vocab_size)
    both = zip((one.ids, one.scores), (other.ids, other.scores), strict=True)
    return same and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in both)


@pytest.mark.parametrize("vocab_size", [4, 300, 358, 1024, 8192, 50_257, LARGEST_VOCABULARY])
@pytest.mark.parametrize("count", [0, 1, 2, 100, MOST_SCORES])
def test_a_file_gives_back_what_went_in(vocab_size: int, count: int) -> None:
    scores = random_scores(vocab_size, min(count, vocab_size))
    assert len(scores.ids) == min(count, vocab_size)
    assert equal(unpack(pack(scores)), scores)


@pytest.mark.parametrize("ids", [range(MOST_SCORES), range(1024 - MOST_SCORES, 1024)], ids=str)
def test_ids_at_either_end_of_the_vocabulary_fit(ids: range) -> None:
    values = np.full(1024, np.nan)
    values[list(ids)] = 1.0
    assert unpack(pack(best(DIGEST, values))).ids.tolist() == list(ids)


def test_no_vocabulary_makes_a_file_too_large() -> None:
    """Sizes depend on the vocabulary and the number of scores alone, and grow with both."""
    sizes = [
        len(pack(random_scores(size, MOST_SCORES)))
        for size in (1024, 8192, 22_911, 22_912, 45_823, 45_824, LARGEST_VOCABULARY)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= MOST_BYTES


def test_best_keeps_the_358_highest_in_steps_of_a_31st() -> None:
    values = np.random.default_rng(1).permutation(1000) / 999
    values[[3, 4]] = np.nan
    scores = best(DIGEST, values)
    rest = np.delete(values, scores.ids)
    assert len(scores.ids) == MOST_SCORES
    assert np.nanmax(rest) < values[scores.ids].min()
    assert np.abs(scores.scores - values[scores.ids]).max() <= 0.5 / TOP_CODE + 1e-6
    dense = scores.dense()
    assert (dense.dtype, dense.shape) == (np.float32, (1000,))
    assert np.array_equal(dense[scores.ids], scores.scores)
    assert not np.delete(dense, scores.ids).any()


def test_every_flipped_bit_is_noticed() -> None:
    packed = pack(random_scores(1024, MOST_SCORES))
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"not a file of token scores|damaged"):
            unpack(bytes(damaged))


def test_every_other_length_is_noticed() -> None:
    packed = pack(random_scores(1024, 50))
    for length in range(len(packed)):
        with pytest.raises(ValueError, match=r"not a file|damaged"):
            unpack(packed[:length])
    with pytest.raises(ValueError, match="damaged"):
        unpack(packed + b"\0")


def forged(vocab_size: int, count: int, body: bytes) -> bytes:
    """A file whose checksum fits, whatever it holds."""
    digest = bytes.fromhex(DIGEST)
    check = zlib.crc32(digest + struct.pack("<HH", vocab_size, count) + body)
    return HEADER.pack(MAGIC, digest, vocab_size, count, check) + body


def test_forged_files_are_refused_or_hold_valid_scores() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        honest = pack(random_scores(int(draw.integers(4, 60)), 4))
        body = bytearray(honest[HEADER.size :])
        _, _, vocab_size, count, _ = HEADER.unpack_from(honest)
        body[draw.integers(len(body))] ^= 1 << int(draw.integers(8))
        if draw.random() < 0.5:
            vocab_size, count = (int(size) for size in draw.integers((70, 8)))
        try:
            scores = unpack(forged(vocab_size, count, bytes(body)))
        except ValueError as error:
            assert re.search("do not fit each other|not in order", str(error))
            continue
        held += 1
        assert (np.diff(scores.ids) > 0).all()
        assert all(0 <= token < vocab_size for token in scores.ids)
        assert scores.dense().max(initial=0) <= 1
    assert held > 50


def test_more_scores_than_there_may_be_are_refused() -> None:
    many = random_scores(1024, MOST_SCORES)
    ids = np.arange(MOST_SCORES + 1)
    more = TokenScores(many.tokenizer, 1024, ids, np.ones(len(ids), np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        unpack(pack(more))


def test_a_file_on_the_disk_is_read_back(tmp_path: Path) -> None:
    scores = random_scores(1024, MOST_SCORES)
    write_scores(tmp_path / "a.scores", scores)
    assert equal(read_scores(tmp_path / "a.scores"), scores)
    assert [path.name for path in tmp_path.iterdir()] == ["a.scores"]


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4" * 100, b"MKG1" + bytes(500)], ids=str)
def test_what_is_no_such_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.scores"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.scores: .*python -m knowledge distil") as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token scores"):
        read_scores(tmp_path)


def test_scores_are_for_one_tokenizer_alone(tmp_path: Path) -> None:
    tokenizer, other, path = tmp_path / "t.model", tmp_path / "o.model", tmp_path / "a.scores"
    tokenizer.write_bytes(b"tokenizer")
    other.write_bytes(b"tokenizer, retrained")
    scores = random_scores(1024, 20)
    write_scores(path, scores)
    assert np.array_equal(scores_for(str(path), tokenizer), scores.dense())
    with pytest.raises(
        InputError, match=r"a\.scores: made for another tokenizer, not for .*o\.model"
    ):
        scores_for(str(path), other)


def test_a_name_that_no_submission_can_hold_is_refused_at_once(tmp_path: Path):
    """It was refused at the export, after the training."""
    with pytest.raises(InputError, match=r"a b\.scores: rename it"):
        scores_for(str(tmp_path / "a b.scores"), tmp_path / "t.model")


def test_a_name_finds_the_file_of_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILT_IN, "wordnet", tmp_path)
    made = {}
    for name in ("one", "two"):
        model = tmp_path / f"{name}.model"
        model.write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        made[model] = random_scores(64, 9, seed=len(made), digest=digest)
        write_scores(tmp_path / f"{name}.scores", made[model])
    for model, scores in made.items():
        assert np.array_equal(scores_for("wordnet", model), scores.dense())
    (tmp_path / "three.model").write_bytes(b"three")
    with pytest.raises(InputError, match=r"kg_scores wordnet: made for one, two, not for .*three"):
        scores_for("wordnet", tmp_path / "three.model")


def test_scores_that_come_along_are_whole_and_their_readme_names_them() -> None:
    paths = sorted(BUILT_IN["wordnet"].glob("*.scores"))
    found = [read_scores(path) for path in paths]
    assert len({scores.tokenizer for scores in found}) == len(paths) == 2
    assert all(path.stat().st_size <= MOST_BYTES for path in paths)
    assert all(scores.scores.max() == 1 and len(scores.ids) == MOST_SCORES for scores in found)
    readme = (BUILT_IN["wordnet"] / "README.md").read_text()
    assert all(path.name in readme for path in paths)
    assert "Creative Commons Attribution 4.0" in readme
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in readme


def test_a_score_has_five_bits() -> None:
    assert (SCORE_BITS, TOP_CODE) == (5, 31)


def test_reading_scores_imports_no_torch():
    """A run refuses bad scores before it spends the seconds that torch takes to import."""
    program = "import sys, knowledge.scores, data.inputs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT).returncode == 0
