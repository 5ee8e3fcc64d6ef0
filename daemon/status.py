"""What the running daemon says of itself: for ``dropoffd status`` and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon import __version__
from daemon.journal.protocol import OperatorJournal
from daemon.observe.prometheus import Gauge
from daemon.ports import Clock
from daemon.processing.context import Progress
from daemon.settings import Settings

Part = Callable[[], Mapping[str, Any]]
"""Says how one part of the service is, as it stands in the answer."""


@dataclass(frozen=True)
class StatusBoard:
    """Puts the answer together, from the journal and from what each part says."""

    journal: OperatorJournal
    settings: Settings
    clock: Clock
    started_at: float
    active: Mapping[tuple[str, int], Progress]
    """Deliveries under way."""
    parts: Mapping[str, Part | Callable[[], Sequence[Mapping[str, Any]]]]
    """``api``, ``intake``, ``workers``: name in the answer to how it is."""
    stopping: Callable[[], bool]
    traffic: Callable[[str], Mapping[str, Any]] = lambda _: {}
    """How a destination does, by its name."""

    async def describe(self) -> dict[str, Any]:
        """The answer of ``GET /status``. Sizes are bytes, durations seconds."""
        uploads = await self.journal.counts()
        return {
            "version": __version__,
            "state": "stopping" if self.stopping() else "running",
            "uptime_seconds": round(self.clock() - self.started_at, 3),
            "uploads": {state.value: count for state, count in uploads.items()},
            "reports": await self.journal.report_counts(),
            "deliveries": [_shown(progress) for progress in self.active.values()],
            "destinations": [
                {"name": name, "type": destination.spec.type, **self._traffic(name)}
                for name, destination in self.settings.destinations.items()
            ],
            **{name: part() for name, part in self.parts.items()},
        }

    async def gauges(self) -> list[Gauge]:
        """What Prometheus is told beside the counters."""
        uploads = await self.journal.counts()
        reports = await self.journal.report_counts()
        return [
            Gauge(
                name="uploads",
                help="Uploads in each state.",
                values={(("state", state.value),): count for state, count in uploads.items()},
            ),
            Gauge(
                name="reports",
                help="Reports in each status.",
                values={(("status", status),): count for status, count in reports.items()},
            ),
            Gauge(
                name="deliveries_active",
                help="Deliveries under way.",
                values={(): len(self.active)},
            ),
            *self._traffic_gauges(),
            Gauge(
                name="uptime_seconds",
                help="Seconds since the start.",
                values={(): self.clock() - self.started_at},
            ),
        ]

    def _traffic(self, name: str) -> dict[str, Any]:
        shown = dict(self.traffic(name))
        throttled_for = shown.pop("throttled_for_seconds", None)
        throttled_since = None if throttled_for is None else self.clock() - throttled_for
        return shown | {"throttled_since": throttled_since}

    def _traffic_gauges(self) -> list[Gauge]:
        traffic = {
            (("destination", name),): self._traffic(name) for name in self.settings.destinations
        }
        return [
            Gauge(
                name="destination_parts_in_flight",
                help="Parts and small uploads on their way.",
                values={name: shown.get("in_flight", 0) for name, shown in traffic.items()},
            ),
            Gauge(
                name="destination_parts_limit",
                help="As many as the destination does well at once, as far as is known.",
                values={name: shown.get("limit", 0) for name, shown in traffic.items()},
            ),
            Gauge(
                name="destination_throttled",
                help="1 while the destination asks to be sent less.",
                values={
                    name: float(shown["throttled_since"] is not None)
                    for name, shown in traffic.items()
                },
            ),
        ]


def _shown(progress: Progress) -> dict[str, Any]:
    return {
        "upload": progress.upload,
        "study": progress.study,
        "destination": progress.destination,
        "size_bytes": progress.size,
        "stored_bytes": progress.stored,
    }
