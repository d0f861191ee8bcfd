"""The table at the end of a run: a row a decision, its reason, what cycles cost."""

from rich.console import Console

from swarm.report import decisions, decisions_table
from swarm.simulate import SyntheticRun, simulate
from tests.swarm.small import steering


def test_the_table_has_each_decision_but_copies_and_the_cost():
    made_up = SyntheticRun("divergence")
    records = simulate(steering(), made_up, made_up.obey)
    for place, record in enumerate(records):
        record["microseconds"] = float(place)
    table = decisions_table([{"kind": "start", "cycle": 0}, *records])
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table)
    text = shown.get()
    changes = [v for r in records for v in r["verdicts"] if v["after"] != v["before"]]
    kept = sum(verdict["lever"] == "keep" for verdict in changes)
    assert table.row_count == len(changes) - kept > 5
    assert f"39 cycles, {table.row_count} decisions, {kept} copies kept" in text
    assert "19.0 us a cycle (p50), 37.6 us (p99)" in text
    assert "divergence, rising loss" in text


def test_a_run_of_no_cycles_has_an_empty_table():
    assert decisions_table([]).row_count == 0


def test_a_run_without_a_decision_has_a_line_in_place_of_a_table():
    """Part 3, newcomer's 9: eight headings over nothing, and "1 copies kept"."""
    kept = {"lever": "keep", "before": 0.0, "after": 1.0}
    cycle = {"kind": "cycle", "verdicts": [kept], "microseconds": 1.0}
    said = "The swarm changed nothing: 1 cycle, 0 decisions, 1 copy kept"
    assert decisions([cycle]) == said
    assert decisions([]) == "The swarm changed nothing: 0 cycles, 0 decisions, 0 copies kept"


def test_text_of_a_log_neither_steers_the_terminal_nor_is_markup():
    """F9, F15: markup in a lever's name raised MarkupError, escapes reached the terminal."""
    verdict = {"lever": "\x1b[31m[/b][red]x", "before": 1.0, "after": 2.0, "rule": "[link=a]"}
    cycle = {"kind": "cycle", "snapshot": {"step": 1, "progress": 0.5}, "microseconds": 1.0}
    wish = {"lever": verdict["lever"], "reason": "[bold]\n"}
    record = cycle | {"verdicts": [verdict | {"agents": ["\x07"]}], "proposals": [wish]}
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(decisions_table([record]))
    text = shown.get()
    assert "\x1b[31m" not in text and "\x07" not in text
    for word in ("\\x1b[31m[/b][red]x", "[link=a]", "[bold]\\n", "\\x07"):
        assert word in text
