from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.observe.lines import MAX_LINE, encode, harmless
from daemon.observe.log import setup

HOSTILE = "a\x1b[31m\x9b\u202eb\udc80\r\nc"

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_event_first() -> None:
    setup(stream=(out := io.StringIO()))
    structlog.get_logger().info("upload_stored", upload="u1", size=3)
    (line,) = lines(out)
    assert list(line) == ["ts", "level", "event", "upload", "size"]
    assert line["ts"].endswith("Z")
    assert (line["level"], line["event"], line["upload"]) == ("info", "upload_stored", "u1")


def test_a_bound_upload_is_on_each_line_of_its_task() -> None:
    setup(stream=(out := io.StringIO()))
    with structlog.contextvars.bound_contextvars(upload="u1"):
        structlog.get_logger().info("one")
    structlog.get_logger().info("two")
    assert [line.get("upload") for line in lines(out)] == ["u1", None]


def test_what_libraries_log_is_a_line_too() -> None:
    setup(stream=(out := io.StringIO()))
    logging.getLogger("aiohttp.access").warning("hello %s", "there")
    (line,) = lines(out)
    assert (line["level"], line["event"], line["logger"]) == (
        "warning",
        "hello there",
        "aiohttp.access",
    )


def test_libraries_are_not_heard_below_warning_at_any_level() -> None:
    setup("debug", stream=(out := io.StringIO()))
    logging.getLogger("botocore.auth").debug("StringToSign: secret")
    logging.getLogger("mohawk.base").warning("seen_nonce was None")
    structlog.get_logger().debug("ours")
    assert [line["event"] for line in lines(out)] == ["ours"]


def test_an_exception_is_told_on_its_line_without_local_values() -> None:
    setup(stream=(out := io.StringIO()))
    session_key = "the-session-key-" + "x"
    try:
        int(session_key[:0])
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines(out)
    assert "ValueError" in line["exception"]
    assert session_key not in out.getvalue()


def test_a_long_line_stays_below_what_journald_takes() -> None:
    setup(stream=(out := io.StringIO()))
    structlog.get_logger().error("big", upload="u1", detail="x" * 1_000_000, other=["y" * 9] * 9999)
    assert len(out.getvalue()) <= MAX_LINE + 1
    (line,) = lines(out)
    assert (line["event"], line["upload"], line["cut"]) == ("big", "u1", True)


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_does_nothing_to_a_terminal(*, terminal: bool) -> None:
    setup(stream=(out := io.StringIO()), terminal=terminal, environ={"NO_COLOR": "1"})
    structlog.get_logger().info(f"event {HOSTILE}", filename=HOSTILE)
    logging.getLogger("library").warning(HOSTILE)
    text = out.getvalue()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()
    assert "x1b[31m" in text or "u001b[31m" in text


def test_an_exceptions_hostile_message_does_nothing_to_a_terminal() -> None:
    setup(stream=(out := io.StringIO()), terminal=True, environ={"NO_COLOR": "1"})
    error = ValueError(HOSTILE)
    try:
        asyncio.run(_raise(error))
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "\x1b" not in out.getvalue()
    assert "Traceback" in out.getvalue()


async def _raise(error: Exception) -> None:
    raise error


def test_a_stream_that_takes_nothing_holds_nobody_up_and_is_told_of_later() -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    setup(stream=(out := Full()))
    structlog.get_logger().info("one")
    structlog.get_logger().info("two")
    out.full = False
    structlog.get_logger().info("three")
    told, last = lines(out)
    assert (told["event"], told["lines"]) == ("log lines lost", 2)
    assert last["event"] == "three"


def test_journald_gets_the_priority_before_the_line() -> None:
    script = """
import os, sys, structlog
from daemon.observe.log import setup
status = os.fstat(1)
setup(environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
structlog.get_logger().error("e")
structlog.get_logger().info("i")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith('<3>{"ts"')
    assert second.startswith('<6>{"ts"')


def test_a_journal_of_somebody_else_gets_plain_lines() -> None:
    setup(stream=(out := io.StringIO()), environ={"JOURNAL_STREAM": "8:1"})
    structlog.get_logger().info("i")
    assert out.getvalue().startswith("{")


@settings(max_examples=60)
@given(st.dictionaries(st.text(), anything))
def test_any_fields_become_one_line_of_strict_json(fields: dict[str, object]) -> None:
    line = encode(fields)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= MAX_LINE
    decoded = json.loads(line, parse_constant=pytest.fail)
    assert isinstance(decoded, dict)
    json.dumps(decoded, ensure_ascii=False).encode()  # no surrogates left


def test_a_value_that_cannot_tell_itself_is_named() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert json.loads(encode({"a": Broken(), "b": 1})) == {"a": "<Broken: RuntimeError>", "b": 1}


def test_a_structure_without_end_is_cut() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert json.loads(encode({"a": endless, "event": "e"}))["event"] == "e"


@given(st.text(st.characters()))
def test_harmless_text_can_be_printed(text: str) -> None:
    assert harmless(text).isprintable()
    assert not text.isprintable() or harmless(text) == text


def test_a_closed_pipe_behind_stdout_ends_nothing() -> None:
    script = """
import structlog
from daemon.observe.log import setup
setup()
for _ in range(10):
    structlog.get_logger().info("x" * 20000)
import os
os._exit(7)
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 7, done.stderr
