"""Tables of the documentation are what ``python -m bench tables`` makes of the results."""

import re

import pytest

from bench.pages import tables
from errors import InputError
from files import PROJECT

RESULT = """\
python -m bench sprint
device: NVIDIA H200
commit: 0123456789abcdef

| label | seed | int6 |
|---|---|---|
| PR #1081 | 1337 | 1.2702 |
| ours | 1337 | 1.2595 |
| ours | 7 | 1.2607 |

commit: fedcba9876543210
| variant | raw | less on | p | averaged | less on | p |
|---|---|---|---|---|---|---|
| on | 1.2 | - | - | 1.3 | - | - |
| off | 1.4 | +0.2 | 0.5 | 1.6 | +0.3 | 0.1 |
"""
CONTESTS = """\
| contest | us | floor us | compiled us (ratio, GiB) | unfused, launched us (ratio, GiB) |
|---|---|---|---|---|
| norm, both | 30.0 | 20.0 | 45.0 (1.50, 0.47) | - |
| optimizer, step | 9.0 | 3.0 | - | 27.0 (3.00, -) |
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one result file and one page."""
    monkeypatch.setattr(tables, "PROJECT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "results.md").write_text(RESULT)
    return tmp_path


def table(project, marker: str) -> list[str]:
    return tables.generated(marker, project / "docs").splitlines()


def test_committed_tables_are_those_of_the_results():
    pages = tables.pages()
    assert [page for page in pages if page.read_text() != tables.written(page)] == []
    assert "docs/results.md" in {str(page.relative_to(PROJECT)) for page in pages}


def test_rows_and_columns_are_selected_and_renamed(project):
    found = table(
        project, "results.md\ncolumns: label = run | int6 | commit | result\nrows: ours = B"
    )
    assert found == [
        "| run | int6 | commit | result |",
        "| --- | --- | --- | --- |",
        "| B | 1.2595 | 0123456 | [results](../results.md) |",
        "| B | 1.2607 | 0123456 | [results](../results.md) |",
    ]


def test_a_repeated_column_is_named_by_the_one_before_it(project):
    columns = "columns: variant\ncolumns: averaged: less on = difference"
    marker = f"results.md#2\n{columns}\nrows: off"
    assert table(project, marker)[2:] == ["| off | +0.3 |"]


def test_of_several_files_the_first_with_a_row_counts(project):
    (project / "more.md").write_text(RESULT.replace("1.2702", "9"))
    marker = (
        "more.md results.md results.md#2\ncolumns: int6 or averaged = x | seed\nrows: PR #1081 | on"
    )
    assert table(project, marker)[2:] == ["| 9 | 1337 |", "| 1.3 | - |"]


def test_parts_of_a_peers_cell_are_columns_and_columns_are_divided(project):
    (project / "kernels.md").write_text(CONTESTS)
    columns = "us / floor us = time / floor | compiled us | compiled GiB | unfused, launched ratio"
    assert table(project, f"kernels.md\ncolumns: {columns}") == [
        "| time / floor | compiled us | compiled GiB | unfused, launched ratio |",
        "| --- | --- | --- | --- |",
        "| 1.50 | 45.0 | 0.47 | - |",
        "| 3.00 | - | - | 3.00 |",
    ]
    with pytest.raises(InputError, match="no column 'us / ceiling us'"):
        table(project, "kernels.md\ncolumns: us / ceiling us")


def test_scores_that_a_run_printed_are_a_table(project):
    (project / "run.md").write_text(
        "commit: 1\n\n    weights, method     bpb  seconds\n"
        "    raw, plain       1.5689      2.9\n    code 4 + artifact 7\n"
    )
    assert table(project, "run.md\ncolumns: weights, method | bpb")[2:] == [
        "| raw, plain | 1.5689 |"
    ]


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("absent.md", "absent.md does not exist"),
        ("results.md#3", "2 tables, not a number 3"),
        ("results.md\ncolumns: int8", "no column 'int8'; there are: label, seed, int6"),
        ("results.md\nrows: theirs", "no row 'theirs'; there are: PR #1081, ours"),
        ("results.md\nlines: ours", "is neither"),
    ],
)
def test_a_marker_that_names_nothing_is_refused(project, marker, said):
    with pytest.raises(InputError, match=re.escape(said)):
        table(project, marker)


def test_a_page_is_written_once_and_then_stays(project, capsys):
    page = project / "docs" / "page.md"
    page.write_text("Above.\n\n<!-- table: results.md\nrows: ours -->\n| old |\n\nBelow.\n")
    assert tables.main(check=True) == 1
    assert "| old |" in page.read_text()
    assert tables.main() == 0
    text = page.read_text()
    assert "| ours | 7 | 1.2607 |\n\nBelow.\n" in text
    assert "old" not in text
    assert capsys.readouterr().out == "docs/page.md\n" * 2
    assert tables.main(check=True) == 0
    assert page.read_text() == text


def test_a_first_table_ends_with_a_blank_line(project):
    page = project / "docs" / "page.md"
    page.write_text("<!-- table: results.md\nrows: ours -->\n\nBelow.\n")
    tables.main()
    assert page.read_text().endswith("| ours | 7 | 1.2607 |\n\nBelow.\n")
    assert tables.main(check=True) == 0


def test_an_error_says_where_the_marker_is(project):
    (project / "docs" / "page.md").write_text("\n\n<!-- table: absent.md -->\n")
    with pytest.raises(InputError, match=re.escape("docs/page.md:3: absent.md does not exist")):
        tables.main()
