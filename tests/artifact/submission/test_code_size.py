"""The bytes of code that a run is charged for."""

import ast
import builtins
import dis
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from artifact.submission.bundle import contents
from artifact.submission.code_size import Code, OverBudget, budget_line, check_total
from artifact.submission.packed import (
    CODES,
    ENCODING,
    abbreviated,
    digits,
    pack,
    size,
    small,
    wrapped,
)
from errors import InputError
from files import PROJECT
from settings import Settings
from settings.load import load_settings
from swarm.steering import agents_of
from tests.swarm.small import FRONTIER


def test_the_project_counts_as_the_file_that_a_submission_stores(tmp_path: Path) -> None:
    settings = Settings()
    script = pack(PROJECT, settings)
    assert Code.of(PROJECT, settings) == (len(script), hashlib.sha256(script).hexdigest())
    assert Code.of(PROJECT, Settings(matrix_lr=0.5)) != Code.of(PROJECT, settings)
    (tmp_path / "train_gpt.py").write_bytes(script)
    assert Code.of(tmp_path / "train_gpt.py", settings) == Code.of(PROJECT, settings)
    (tmp_path / "train_gpt.py").write_bytes(b"x")
    assert Code.of(tmp_path / "train_gpt.py", settings).bytes == 1


def test_a_size_that_is_known_is_asked_again_if_anything_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packed = []
    monkeypatch.setattr("artifact.submission.packed.wrapped", lambda c: packed.append(c) or c)
    for text in ("A = 1\n", "A = 1\n", "A = 2\n"):
        files = {"a.py": text}
        monkeypatch.setattr("artifact.submission.packed.contents", lambda *_, files=files: files)
        assert size(PROJECT, Settings()) == size(PROJECT, Settings())
    assert len(packed) == 2
    (tmp_path / "murmuration" / "packed.json").write_text('{"' + "0" * 64 + '": "1 2"}')
    assert size(PROJECT, Settings())[0] == len(packed[-1].encode(ENCODING))


WITH_AGENTS = """
    --preset frontier-sprint --swarm --swarm-agents frontier --swarm-windows 256,512,1024,2048,0
    --probes 32 --readout
"""


@pytest.mark.parametrize(
    "settings",
    [Settings(kg_scores="wordnet"), load_settings(WITH_AGENTS.split(), {})],
    ids=["scores", "agents"],
)
def test_the_packed_code_stays_within_its_120_kb(settings: Settings) -> None:
    assert Code.of(PROJECT, settings).bytes <= 120_000


def test_corrections_are_packed_only_if_they_are_wanted() -> None:
    assert "artifact/quantisation/lqer.py" not in contents(PROJECT, Settings())
    assert "artifact/quantisation/lqer.py" in contents(PROJECT, Settings(lqer_rank=1))


def test_agents_are_packed_only_for_runs_that_have_them() -> None:
    shared = {"__init__", "base", "health", "learning_rate"}
    seed = shared | {"seed", "knowledge", "mtp"}
    frontier = {path.stem for path in (PROJECT / "swarm/agents").glob("*.py")} - seed | shared

    def packed(**changes: object) -> set[str]:
        names = contents(PROJECT, Settings(**changes)).keys()  # pyright: ignore[reportArgumentType]
        return {Path(name).stem for name in names if name.startswith("swarm/agents/")}

    assert packed() == seed | {"qat"}
    assert packed(late_qat_threshold=0) == seed
    assert packed(swarm_agents="frontier") == frontier
    assert packed(swarm_agents="frontier", late_qat_threshold=0) == frontier - {"qat"}
    assert packed(late_qat_threshold=0, agents_off=["qat"]) == seed | {"qat"}
    assert packed(swarm=False) == shared


@pytest.mark.parametrize(
    "options", [["--kg-scores", "wordnet"], FRONTIER], ids=["seed", "frontier"]
)
def test_a_packed_file_has_every_agent_of_its_run(options: list[str]) -> None:
    """Agent qat, which both sets have, was left out with set seed."""
    settings = load_settings(options, {})
    modules = {f"{type(agent).__module__.replace('.', '/')}.py" for agent in agents_of(settings)}
    assert len(modules) > 4 and "swarm/agents/qat.py" in modules
    assert modules <= contents(PROJECT, settings).keys()


def test_other_packages_attention_is_packed_only_if_it_is_wanted() -> None:
    parts = {"kernels/attention/flash.py", "kernels/peers.py"}
    assert parts.isdisjoint(contents(PROJECT, Settings()))
    assert parts <= contents(PROJECT, Settings(attention_backend="flash")).keys()


def test_a_clock_that_no_contest_has_is_left_out() -> None:
    assert "training/reference_clock.py" not in contents(PROJECT, Settings())


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (Settings(), set()),
        (Settings(readout=True), {"held_out", "readout"}),
        (Settings(probes=3), {"held_out", "probe"}),
        (Settings(swarm_agents="frontier"), {"held_out", "probe"}),
        (Settings(swarm_agents="frontier", probes=0), set()),
    ],
)
def test_probe_and_readout_are_packed_only_for_runs_that_use_them(settings, parts) -> None:
    found = contents(PROJECT, settings)
    names = {"held_out", "probe", "readout"}
    assert {name for name in names if f"training/{name}.py" in found} == parts


def test_the_limit_itself_is_within_it() -> None:
    check_total(1_000, 15_999_000)


def test_over_budget_names_every_number() -> None:
    with pytest.raises(OverBudget) as caught:
        check_total(123_456, 15_900_000)
    assert str(caught.value) == (
        "code 123,456 + artifact 15,900,000 = 16,023,456 of 16,000,000 bytes (23,456 over)"
    )


def test_budget_line_says_what_is_left() -> None:
    assert budget_line(10, 20, limit=100) == "code 10 + artifact 20 = 30 of 100 bytes (70 left)"


@pytest.mark.parametrize("length", [0, 1, 2, 350, 351, 352, 703, 5_000])
def test_any_bytes_become_digits_that_a_string_can_hold(length: int) -> None:
    values = [byte for byte in range(256) if byte not in b'\0\r"\\']
    for content in (random.Random(length).randbytes(length), b"\xff" * length, bytes(length)):
        found = digits(content)
        assert {*found} <= {*values} and len(found) == length + -(-length // 351)
        space: dict[str, bytes] = {}
        exec(f'found = """{found.decode(ENCODING)}""".encode("{ENCODING}")', space)
        blocks = (space["found"][at : at + 352] for at in range(0, len(found), 352))
        numbers = [
            (sum(values.index(d) * 252**p for p, d in enumerate(b[::-1])), b) for b in blocks
        ]
        assert b"".join(n.to_bytes(len(b) - 1) for n, b in numbers) == content


def test_any_text_comes_back_and_frequent_words_are_one_character() -> None:
    draw = random.Random(1)
    for _ in range(20):
        some = ["frequent", "self", "▁", "\n", "é\x85", "2x\x01", " ", "_a1"]
        words = [*draw.choices(some, k=300), *(f"word{n} " for n in range(200))]
        content = "pass\0" + draw.choice(["", "\r"]).join(words)
        space: dict[str, list[str]] = {}
        exec(compile(wrapped(content).encode(ENCODING), "wrapped", "exec"), space)
        assert space["PARTS"] == [content.removeprefix("pass\0")]
    assert abbreviated("self.é of frequent words and frequent tests")[:2] == ["é", "frequent"]


def test_more_characters_than_bytes_are_refused() -> None:
    most = "".join(map(chr, range(400, 400 + len(CODES))))
    wrapped(f"pass\0{most}")
    with pytest.raises(InputError, match="156 characters beyond ASCII; 155 can be"):
        wrapped(f"pass\0{most}x\x1b")


def test_all_that_packed_modules_import_from_each_other_is_there() -> None:
    files = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ast.parse(text)
        for name, text in small(contents(PROJECT, Settings(lqer_rank=1))).items()
        if name.endswith(".py")
    }
    found = {name: {n for node in tree.body for n in made(node)} for name, tree in files.items()}
    imports = 0
    for name, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in found:
                names = {alias.name for alias in node.names}
                absent = {
                    n for n in names - found[node.module] if f"{node.module}.{n}" not in files
                }
                assert not absent, f"{name} imports {absent} from {node.module}"
                imports += len(names)
    assert imports > 500


def test_every_name_that_a_packed_module_reads_is_there() -> None:
    settings = Settings(swarm_agents="frontier", readout=True, lqer_rank=1, kg_scores="wordnet")
    count = 0
    for name, text in small(contents(PROJECT, settings)).items():
        if name.endswith(".py"):
            code = compile(text, name, "exec")
            there = {*dir(builtins), *used(code, "STORE_NAME", "STORE_GLOBAL")}
            found = {*used(code, "LOAD_GLOBAL", "LOAD_NAME")}
            absent = {each for each in found - there if not each.startswith("__")}
            assert not absent, f"{name} reads {absent}"
            count += len(found)
    assert count > 3_000


def used(code: CodeType, *operations: str) -> Iterator[str]:
    """Yield the names that operations of a module's code, and of all code in it, use."""
    yield from (each.argval for each in dis.get_instructions(code) if each.opname in operations)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from used(each, *operations)


def made(node: ast.stmt) -> set[str]:
    """Return the names that a module's statement defines or imports."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    names |= {getattr(node, "name", "")}
    aliases = [each for each in ast.walk(node) if isinstance(each, ast.alias)]
    return names | {(each.asname or each.name).split(".")[0] for each in aliases}
