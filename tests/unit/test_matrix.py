"""The README's server matrix is made of what tests saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import matrix

ALL = dict.fromkeys(matrix.COLUMNS, matrix.YES)


def cells(**seen: str) -> list[matrix.Cell]:
    """A row that has all, and one that differs direct."""
    first = [matrix.Cell("a", "file", "-x", way, ALL) for way in ("nginx", "direct")]
    second = [matrix.Cell("b", "none", "", "nginx", ALL)]
    return [*first, *second, matrix.Cell("b", "none", "", "direct", ALL | seen)]


def test_what_all_rows_share_is_a_sentence_and_the_rest_a_column() -> None:
    table = matrix.rendered(cells(unknown="404 | no"))
    assert f"; {matrix.COLUMNS['resumed']}" in table
    assert "| a | file | `-x` | yes |\n| b | none |  | nginx: yes; direct: 404 \\| no |" in table


def test_what_nobody_saw_is_told() -> None:
    without = {key: value for key, value in ALL.items() if key != "away"}
    table = matrix.rendered([matrix.Cell("a", "file", "", "nginx", without)])
    assert "| not seen |" in table


def test_only_the_place_between_the_marks_changes() -> None:
    readme = f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n"
    once = matrix.spliced(readme, "new\n")
    assert once == f"before\n{matrix.BEGIN}\nnew\n{matrix.END}\nafter\n"
    assert matrix.spliced(once, "new\n") == once
    with pytest.raises(ValueError, match="no place"):
        matrix.spliced("before\nafter\n", "new\n")


def test_a_cell_is_kept_as_it_is(tmp_path: Path) -> None:
    wanted = cells(foreign="404")
    for number, cell in enumerate(wanted):
        matrix.keep(tmp_path, number, cell)
    assert matrix.kept(tmp_path) == wanted
