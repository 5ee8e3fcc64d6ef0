"""The metrics log: one wide JSON line for each finished unit of work, and counts for Prometheus."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import structlog

from daemon.observe.linefile import LineFile
from daemon.observe.lines import encode, timestamp
from daemon.observe.prometheus import Counters, Gauge
from daemon.ports import Clock

FILE = "metrics.jsonl"
"""Its name in the state directory."""
MAX_BYTES = 64 * 1024 * 1024
KEEP = 8
"""Rotated files that stay."""
BACKLOG = 10_000
"""Lines that wait while the disk can't take them; further ones are dropped, and counted."""

_BATCH = 1_000
_GATHER_SECONDS = 0.05
_RETRY_SECONDS = 5.0
_CLOSE_SECONDS = 5.0

log = structlog.get_logger()


class MetricsLog:
    """Takes lines from any thread, and writes them in one of its own.

    Implements :class:`daemon.ports.Metrics`. A line that is recorded is on its way, not durable.
    """

    def __init__(  # noqa: PLR0913 - bounds that only tests set otherwise
        self,
        path: Path,
        *,
        clock: Clock = time.time,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        backlog: int = BACKLOG,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._path = path
        self._file = LineFile(path, max_bytes, keep)
        self._clock = clock
        self._backlog = backlog
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._waiting: deque[dict[str, object]] = deque()
        self._dropped = 0
        self._all_dropped = 0
        self._closing = False
        self._broken = False
        self._counters = Counters()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to write. Lines recorded before wait for it."""
        self._thread.start()

    def record(self, event: str, outcome: str, **fields: object) -> None:
        """Write a line; never blocks, never raises. Fields that are None are left out."""
        present = {name: value for name, value in fields.items() if value is not None}
        line = {"ts": timestamp(self._clock()), "event": event, "outcome": outcome} | present
        with self._changed:
            self._counters.add(event, outcome, present)
            if len(self._waiting) >= self._backlog:
                self._dropped += 1
                self._all_dropped += 1
                return
            self._waiting.append(line)
            if len(self._waiting) == 1:
                self._changed.notify()

    def render(self, gauges: Iterable[Gauge] = ()) -> str:
        """Counts since the start as Prometheus text, with the given gauges."""
        with self._changed:
            lost = Gauge(
                name="metrics_lines_lost",
                help="Lines that the metrics log could not take.",
                values={(): self._all_dropped},
            )
            return self._counters.render([*gauges, lost])

    async def aclose(self) -> None:
        """Write what waits, for a few seconds at most, and close."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """The same, where there is no event loop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while (lines := self._take()) is not None:
                self._write(lines)
        finally:
            self._file.close()

    def _take(self) -> bytes | None:
        """The next lines, waiting for them; None when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            # A thread that is woken for each line costs the others more than the line does.
            self._changed.wait_for(lambda: self._closing, _GATHER_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if self._dropped:
                batch.append(self._loss())
        return "".join(f"{encode(line)}\n" for line in batch).encode()

    def _loss(self) -> dict[str, object]:
        lost, self._dropped = self._dropped, 0
        return {
            "ts": timestamp(self._clock()),
            "event": "metrics",
            "outcome": "dropped",
            "lines": lost,
        }

    def _write(self, lines: bytes) -> None:
        """Write until it's done; meanwhile new lines pile up to the backlog."""
        while True:
            try:
                self._file.append(lines)
            except OSError as error:
                self._tell(error)
                lines = b""  # the file keeps what is left of them
                if self._pause():
                    return
            else:
                if self._broken:
                    self._broken = False
                    log.info("metrics log can be written again", file=str(self._path))
                return

    def _pause(self) -> bool:
        """Wait before the next try; True where there is none because of the end."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, self._retry_seconds)

    def _tell(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            log.warning("metrics log can't be written", file=str(self._path), error=error.strerror)
