"""The log on stdout: JSON lines for machines, readable text on a terminal.

Everything goes through structlog; what libraries log by the standard library is folded in. Bind
``upload`` to each line that concerns one: ``structlog.contextvars.bound_contextvars(upload=…)``
inside the task, or ``log.bind(upload=…)``.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from daemon.observe.lines import encode, harmless

Level = Literal["debug", "info", "warning", "error"]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def setup(
    level: Level = "info",
    *,
    stream: TextIO | None = None,
    terminal: bool | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Configure structlog and the standard library's root logger. Called once, by the service.

    ``stream`` is stdout unless given. Whether it is a ``terminal`` is found out unless told.
    Libraries are heard from ``warning`` on, whatever the level: botocore's and mohawk's debug
    lines carry what they sign with.
    """
    stream = sys.stdout if stream is None else stream
    environ = os.environ if environ is None else environ
    terminal = stream.isatty() if terminal is None else terminal
    sink = _Sink(stream, priorities=_is_journal(stream, environ))
    render = _terminal_renderer(colors="NO_COLOR" not in environ) if terminal else _json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
        # Plain tracebacks: the prettier ones show local variables, and so secrets.
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Logger(sink),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    # It warns of each request that it doesn't remember nonces; the server does.
    logging.getLogger("mohawk").setLevel(logging.ERROR)
    # It logs each failed try to reach a broker, which is told of once, in our words.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class _Sink:
    """The stream, shared by all. What it can't take is counted, and told later."""

    def __init__(self, stream: TextIO, *, priorities: bool) -> None:
        self._stream = stream
        self._priorities = priorities
        self._lock = threading.Lock()
        self._lost = 0

    def write(self, level: str, line: str) -> None:
        with self._lock:
            try:
                if self._lost:
                    self._put("warning", encode({"event": "log lines lost", "lines": self._lost}))
                    self._lost = 0
                self._put(level, line)
            except (OSError, ValueError):
                # A full disk behind stdout, or nobody reading: the work matters more.
                self._lost += 1

    def _put(self, level: str, line: str) -> None:
        if self._priorities:
            # journald takes the priority from here, and takes it off the line.
            line = f"<{_PRIORITIES.get(level, 6)}>{line}"
        encoding = self._stream.encoding or "ascii"
        self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._stream.flush()


class _Logger:
    """What structlog's bound loggers end in."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def __getattr__(self, level: str) -> Callable[[str], None]:
        def write(line: str) -> None:
            self._sink.write(level, line)

        return write


class _Handler(logging.Handler):
    """What the standard library's loggers end in."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(record.levelname.lower(), self.format(record))
        except Exception:  # noqa: BLE001 - the standard library's own way with a bad log call
            self.handleError(record)


def _json(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    first = {key: fields.pop(key) for key in ("ts", "level", "event") if key in fields}
    return encode({**first, **fields})


def _terminal_renderer(*, colors: bool) -> Processor:
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="ts",
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: WrappedLogger, method: str, fields: EventDict) -> str:
        fields["ts"] = str(fields.get("ts", ""))[11:19]
        return str(console(logger, method, {key: _shown(key, fields[key]) for key in fields}))

    return render


def _shown(key: str, value: Any) -> Any:  # noqa: ANN401 - whatever was logged
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    keep = "\n\t" if key in {"exception", "stack"} else ""
    return harmless(str(value), keep)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream goes to journald itself, and not just some parent's did."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
