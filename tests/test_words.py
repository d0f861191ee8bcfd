"""The words of README and docs: short sentences, the field's terms, today's state, whole tables."""

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from files import PROJECT

LOG = PROJECT / "docs" / "log.md"
SESSION = PROJECT / "docs" / "session.md"  # recorded, not written
PAGES = sorted(
    {PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"}
    | set((PROJECT / "docs").glob("*.md"))
    | set((PROJECT / "kernels").rglob("README.md"))
)
# Pages that are not rewritten yet; only their tables are checked.
NOT_REWRITTEN: tuple[str, ...] = ()
MEDIAN_WORDS, MOST_WORDS = 18, 35  # of a sentence
WORDS_OF_A_PAGE = {
    "CONTRIBUTING.md": 500,
    "docs/artifact.md": 600,
    "docs/evaluation.md": 750,
    "docs/knowledge.md": 500,
    "docs/parallel.md": 600,
    "docs/results.md": 900,
    "docs/submission.md": 450,
    "docs/swarm.md": 1300,
}
WORDS_OF_DOCS = 11_000  # docs and the kernels' pages, without the log
# Words that the project used for terms of the field, and those of a page that tells history.
PRIVATE = (
    r"beside",
    r"side by side",
    r"rooms?",
    r"wish(?:es)?",
    r"(?:lets?|letting) go",
    r"steady",
    r"mended?",
    r"dealt",
    r"turned",
    r"noted",
    r"made up",
    r"along",
    r"log_sum",
    r"stor(?:y|ies)",
    r"is told",
    r"takes up",
)
HISTORY = (r"no longer", r"since then", r"any ?more")
FORBIDDEN = re.compile(rf"\b(?:{'|'.join(PRIVATE + HISTORY)})\b", re.IGNORECASE)
# "for" as a conjunction: "because" says the same, and cannot be taken for a preposition.
CONJUNCTION = re.compile(r"[,;] for (?!example|instance)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE_BLOCK = re.compile(r"```.*?```", re.DOTALL)
ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s+")
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'(*`])")
RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")
# A measured number: it has at least two decimals.
MEASURED = re.compile(r"\|[^|]*\d\.\d\d[^|]*(?=\|)")


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


REWRITTEN = [path for path in PAGES if path != LOG and name_of(path) not in NOT_REWRITTEN]


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs and list items of a page, without code, tables and headings."""
    lines: list[str] = []
    for line in [*CODE_BLOCK.sub("", COMMENT.sub("", text)).splitlines(), ""]:
        item = ITEM.match(line)
        other = not line.strip() or line.startswith(("|", "#", "    ", "<"))
        if (other or item) and lines:
            yield " ".join(lines)
            lines = []
        if not other:
            lines.append(line[item.end() :] if item else line.strip())


def sentences(text: str) -> list[str]:
    """Return the sentences of a page; a name in backticks is one word, a link is its text."""
    found = []
    for paragraph in paragraphs(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "CODE", paragraph))
        found += [each for each in SENTENCE_END.split(plain) if each.strip()]
    return found


def words(text: str) -> int:
    """Return the number of words of a page, those of tables and commands included."""
    return len(re.findall(r"[^\s|]*\w[^\s|]*", COMMENT.sub("", text)))


def tables(text: str) -> list[list[str]]:
    """Return the lines of each table, preceded by the line above it."""
    found: list[list[str]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([before])
            found[-1].append(line)
        before = line
    return found


def faults_of_table(table: list[str]) -> list[str]:
    """Return what breaks a table: its header, its rule, or a row of another width."""
    above, header, *rest = table
    faults = [] if not above.strip() or above.startswith("#") else [f"text above: {header}"]
    if not rest or not RULE.fullmatch(rest[0]):
        return [*faults, f"no rule below the header: {header}"]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (header, *rest)]
    return faults + [
        f"a row of another width: {line}"
        for line, count in zip((header, *rest), cells, strict=True)
        if count != cells[0]
    ]


def anchors(text: str) -> set[str]:
    """Return the names by which links lead to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page to files and headings that are not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE_BLOCK.sub("", text)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link or (target.exists() and not anchor):
            continue
        if not target.is_file() or anchor not in anchors(target.read_text()):
            broken.append(link)
    return broken


def faults_of_words(text: str) -> list[str]:
    """Return the sentences with a private word, with history, or with "for" as a conjunction."""
    return [each for each in sentences(text) if FORBIDDEN.search(each) or CONJUNCTION.search(each)]


@pytest.mark.parametrize("page", REWRITTEN, ids=name_of)
def test_sentences_are_short(page: Path):
    lengths = {each: len(each.split()) for each in sentences(page.read_text())}
    assert [each for each, length in lengths.items() if length > MOST_WORDS] == []
    assert statistics.median(lengths.values()) <= MEDIAN_WORDS


@pytest.mark.parametrize("page", REWRITTEN, ids=name_of)
def test_words_are_those_of_the_field_and_of_today(page: Path):
    assert faults_of_words(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_whole(page: Path):
    assert [fault for table in tables(page.read_text()) for fault in faults_of_table(table)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_found():
    page, links = PROJECT / "README.md", ("docs/none.md", "#measure", "docs/swarm.md#none", "docs")
    text = " ".join(f"[a]({link})" for link in links)
    assert broken_links(page, text) == ["docs/none.md", "docs/swarm.md#none"]


@pytest.mark.parametrize("page", REWRITTEN, ids=name_of)
def test_measured_tables_of_docs_are_generated(page: Path):
    text = page.read_text()
    measured = [
        table[1] for table in tables(text) if sum(len(MEASURED.findall(x)) for x in table) > 2
    ]
    generated = re.findall(r"<!-- table: [^>]*-->\n\n(\|.*)", text)
    assert [header for header in measured if header not in generated] == []


def test_pages_are_short():
    lengths = {
        name_of(path): words(path.read_text()) for path in PAGES if path not in (LOG, SESSION)
    }
    limits = {name: most for name, most in WORDS_OF_A_PAGE.items() if name not in NOT_REWRITTEN}
    assert {name for name, most in limits.items() if lengths[name] > most} == set()
    assert sum(most for name, most in lengths.items() if "/" in name) <= WORDS_OF_DOCS


def test_exceptions_are_pages():
    assert set(NOT_REWRITTEN) <= {name_of(path) for path in PAGES}


@pytest.mark.parametrize(
    "text",
    [
        "It stays on, for it costs little.",
        "The copy runs beside the step.",
        "This is no longer so.",
        "- a list\n- the rows are\n  turned in place",
    ],
)
def test_a_fault_of_words_is_found(text: str):
    assert faults_of_words(text)


def test_names_in_code_are_no_words():
    assert not faults_of_words("`turned` is a name, for example.\n\n    beside --no longer\n")


def test_items_code_and_tables_end_sentences():
    text = "One two\nthree. Four `a b c`:\n\n- Five\n- six [seven](x.md)\n"
    text += "\n| a |\n\n    code\n# Title\n"
    assert sentences(text) == ["One two three.", "Four CODE:", "Five", "six seven"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n", "no rule"),
        ("\n| a | b |\n|---|---|\n| 1 |\n", "another width"),
        ("text\n| a |\n|---|\n", "text above"),
    ],
)
def test_a_broken_table_is_found(text: str, fault: str):
    found = [each for table in tables(text) for each in faults_of_table(table)]
    assert len(found) == 1
    assert fault in found[0]


def test_a_whole_table_has_no_fault():
    assert not faults_of_table(["", "| a | b |", "| --- | :-: |", "| 1 \\| 2 | 3 |"])
