"""``python -m evaluation generate``, and texts that a run writes between its steps."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifact.export import export
from data.tokenizer import Tokenizer
from errors import InputError
from evaluation import __main__ as cli
from evaluation.generation import Prompt, Sampling, generate, written
from evaluation.samples import Samples
from evaluation.writer import encoded, shown
from model.gpt import GPT
from model.parameters import exported, roles
from runtime.progress import Progress
from runtime.run_folder import RunFolder
from settings import Settings
from tests.small import NETWORK, TABLES, small_model, trained_tokenizer

VOCAB, BOS = 300, 1
TEXT = "the dog and the fox; the fox and the bird: each of them watches the other. "
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: artifact, settings, and the data's folder with its tokenizer."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    trained_tokenizer([TEXT * 20], VOCAB, folder / "data")
    model = small_model(0.2, vocab_size=VOCAB, **TABLES)
    architecture = model.config.model_dump()
    export(folder / "artifact.bin", architecture, exported(model), roles(model.config))
    (folder / "settings.toml").write_text(f'data = "{folder}/data"\neval_seq_len = 16\n')
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "data" / "tokenizer.model")


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Generate from the artifact; the exit code, what it printed, and its stderr."""

    def command(
        *arguments: object, artifact: Path = folder / "artifact.bin"
    ) -> tuple[int, str, str]:
        code = cli.main(["generate", str(artifact), "--device", "cpu", *map(str, arguments)])
        printed, complaint = capsys.readouterr()
        return code, printed, complaint

    return command


def test_a_text_begins_with_its_prompt_and_is_of_its_seed(run: Command):
    options = ("--prompt", "the fox", "--max-tokens", 40, "--seed", 3)
    code, text, said = run(*options)
    assert code == 0
    assert text.startswith("the fox") and text.endswith("\n") and len(text) > 20
    assert run(*options)[1] == text
    assert run(*options[:-1], 4)[1] != text
    assert "tokens in" in said and "a second" in said


def test_several_texts_are_those_of_the_seeds_that_follow(run: Command):
    options = ("--prompt", "the", "--max-tokens", 8)
    several = run(*options, "--count", 3, "--seed", 5)[1]
    alone = [run(*options, "--seed", seed)[1] for seed in (5, 6, 7)]
    assert several.split(f"{'-' * 20}\n") == alone


def test_without_a_prompt_a_document_begins(run: Command):
    code, text, _ = run("--max-tokens", 5, "--temperature", 0)
    assert code == 0
    assert run("--prompt", "", "--max-tokens", 5, "--top-k", 1)[1] == text


def test_prompts_come_from_stdin_one_a_line(run: Command, monkeypatch: pytest.MonkeyPatch):
    options = ("--max-tokens", 4, "--temperature", 0)
    expected = [run("--prompt", prompt, *options)[1] for prompt in ("the dog", "- é")]
    given = io.TextIOWrapper(io.BytesIO("the dog\n\n- é\n".encode()))
    monkeypatch.setattr(sys, "stdin", given)
    assert run("--prompt", "-", *options)[1] == f"{'-' * 20}\n".join(expected)


def test_a_lone_artifact_needs_a_tokenizer(folder: Path, run: Command, tmp_path: Path):
    expected = run("--max-tokens", 5)[1]
    alone = tmp_path / "artifact.bin"
    alone.write_bytes((folder / "artifact.bin").read_bytes())
    code, _, complaint = run("--max-tokens", 5, artifact=alone)
    assert code == 2
    assert complaint.endswith("give --tokenizer FILE, or --data DIR of its data\n")
    for option in (("--data", folder / "data"), ("--tokenizer", folder / "data/tokenizer.model")):
        assert run("--max-tokens", 5, *option, artifact=alone)[1] == expected


def test_what_is_no_artifact_is_named_before_its_tokenizer(folder: Path, run: Command, tmp_path):
    assert f"give {folder}/artifact.bin" in run(artifact=folder)[2]
    assert "none: no such file" in run(artifact=tmp_path / "none")[2]
    (tmp_path / "README.md").write_text("none")
    assert "README.md: not a sound artifact" in run(artifact=tmp_path / "README.md")[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", -1], "temperature -1.0: give 0"),
        (["--temperature", "warm"], "temperature"),
        (["--top-k", -1], "top-k -1"),
        (["--max-tokens", 0], "max-tokens 0"),
        (["--count", 0], "--count 0"),
        (["--seed", -1], "--seed -1"),
        (["--context", 1], "eval_seq_len 1: give 2"),
        (["--prompt", "\udcff"], "is no UTF-8"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--tokenizer", "none.model"], "none.model: no such tokenizer"),
    ],
)
def test_bad_input_is_one_line(run: Command, options: list, words: str):
    code, _, complaint = run(*options)
    assert code == 2
    assert words in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(("given", "words"), [(b"\n \n\n"[:1], "no prompt"), (b"a\xff", "byte 1")])
def test_bad_stdin_is_one_line(run, monkeypatch: pytest.MonkeyPatch, given: bytes, words: str):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    code, _, complaint = run("--prompt", "-")
    assert code == 2
    assert words in complaint and complaint.count("\n") == 1


def test_a_prompt_that_encodes_to_nothing_is_refused(tokenizer: Tokenizer, monkeypatch):
    assert encoded(tokenizer, "") == [BOS]
    monkeypatch.setattr(tokenizer, "encode", lambda text: [])
    with pytest.raises(InputError, match="encodes to no token"):
        encoded(tokenizer, " ")


def test_a_tokenizer_of_another_network_is_refused(folder: Path, run: Command, tmp_path: Path):
    trained_tokenizer([TEXT * 20], VOCAB - 10, tmp_path)
    code, _, complaint = run("--data", tmp_path)
    assert code == 2
    assert f"has {VOCAB - 10} tokens, but the model's vocabulary is {VOCAB}" in complaint


def test_a_terminal_gets_no_control_characters():
    assert shown("a\x1b[2J\r\n\tß\x9b…\u00a0") == "a\\x1b[2J\\r\n\tß\\x9b…\u00a0"


def test_a_text_ends_before_the_next_document(tokenizer: Tokenizer, monkeypatch):
    """The second text ends first, and is shown whole once the first has ended."""
    a, b, c = tokenizer.encode("the")[0], tokenizer.encode("dog")[0], tokenizer.encode("fox")[0]
    steps = [[a, b, a], [a, BOS, c], [c, b, c], [BOS, c, c], [a, a, c], [a, a, BOS]]
    taken = []

    def scripted(*_: object) -> Iterator[list[int]]:
        for step in [*steps, [c, c, c]]:
            taken.append(step)
            yield step

    monkeypatch.setattr("evaluation.generation.generate", scripted)
    prompts = [Prompt([BOS, c], 0), Prompt([BOS], 0), Prompt([BOS], 0)]
    pieces = list(written(GPT.__new__(GPT), tokenizer, prompts, Sampling()))
    numbers = [piece.number for piece in pieces]
    assert numbers == sorted(numbers)
    text = ["".join(p.characters for p in pieces if p.number == n) for n in range(3)]
    assert text == [tokenizer.decode(each) for each in ([c, a, a, c], [b], [a, c, c, c, c])]
    assert sum(piece.tokens for piece in pieces) == 4 + 2 + 6
    assert taken == steps


def test_a_run_s_samples_are_printed_and_logged(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = {**NETWORK, **TABLES, "vocab_size": VOCAB, "eval_seq_len": 16, "eval_stride": 0}
    settings = Settings(**given, sample_prompt="the\n", sample_tokens=9, seed=4)  # pyright: ignore
    folder = RunFolder.create(tmp_path / "run", "", {})
    model = small_model(0.2, vocab_size=VOCAB, **TABLES)
    write = Samples(settings, model, tokenizer.path, folder, Progress(None, None))
    write(10)
    folder.close()
    prompt = Prompt([BOS, *tokenizer.encode("the\n")], 4)
    tokens = [each for (each,) in generate(model, [prompt], Sampling(0.8, 50, 9, 16))]
    kept = tokens[: tokens.index(BOS)] if BOS in tokens else tokens
    text = tokenizer.decode([*prompt.tokens, *kept])
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert logged == {"kind": "sample", "step": 10, "text": text}
    printed = capsys.readouterr().out
    assert printed.startswith("sample    the\\n") and printed.count("\n") == 1
