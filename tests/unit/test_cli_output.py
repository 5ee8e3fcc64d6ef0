from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.cli import output
from daemon.cli.output import Column

COLUMNS = (Column("UPLOAD", keep=True), Column("SIZE", right=True, keep=True), Column("FILE"))
HOSTILE = "a\x1b[2J\x9b\u202e\udc80\nb[bold]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_table_in_a_pipe_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(COLUMNS, [("u1", "5 B", "x" * 300), ("u22", "10 MiB", HOSTILE)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "UPLOAD    SIZE  FILE"
    assert first == "u1         5 B  " + "x" * 300
    assert second == "u22     10 MiB  a\\x1b[2J\\x9b\\u202e\\udc80\\nb[bold]"


def test_a_table_on_a_terminal_fits_it_and_keeps_ids_whole(terminal: Terminal) -> None:
    identifier = "37a81c35-68de-40a4-90df-f6608b548095"
    with redirect_stdout(terminal):
        output.print_table(COLUMNS, [(identifier, "954 MiB", "y" * 200)])
    lines = terminal.getvalue().splitlines()
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in lines) <= 80
    assert identifier in lines[1]
    assert lines[1].rstrip().endswith("…")


def test_hostile_names_do_nothing_to_a_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with redirect_stdout(terminal):
        output.print_table(COLUMNS, [("u1", "5 B", HOSTILE)])
        output.print_pairs({"file": HOSTILE})
    text = terminal.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert text.replace("\n", "").isprintable()
    assert text.count("[bold]") == 2


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False), ("", False)])
def test_colour_is_only_used_where_it_is_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, no_color: str | None, *, coloured: bool
) -> None:
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    with redirect_stdout(terminal):
        output.print_table((Column("STATE", keep=True),), [("failed",)])
    assert ("\x1b[31m" in terminal.getvalue()) is coloured


def test_json_is_ascii_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"filename": "ä\x9b", "size": None})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"filename": "ä\x9b", "size": None}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 120)), min_size=1, max_size=8),
    st.integers(40, 200),
)
def test_columns_share_the_width_that_there_is(
    given_columns: list[tuple[bool, int]], width: int
) -> None:
    columns = [Column("x", keep=keep) for keep, _ in given_columns]
    natural = [cells for _, cells in given_columns]
    widths = output.fit(columns, natural, width)
    for column, wanted, cells in zip(columns, natural, widths, strict=True):
        assert cells == wanted if column.keep else 1 <= cells <= wanted
    gaps = 2 * (len(columns) - 1)
    least = sum(
        cells if column.keep else min(cells, 4)
        for column, cells in zip(columns, natural, strict=True)
    )
    assert sum(widths) + gaps <= max(width, least + gaps)
    if sum(natural) + gaps <= width:
        assert widths == natural


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 10, "0 %"), (999, 1000, "99 %"), (10, 10, "100 %")]
)
def test_a_share_is_whole_only_when_all_is_there(part: int, whole: int, text: str) -> None:
    assert output.share(part, whole) == text
    assert output.share(part, None) == output.EMPTY
