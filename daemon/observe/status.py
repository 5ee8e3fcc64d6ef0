"""What the running daemon says of itself: ``GET /status`` on the hook socket, ``dropoffd status``.

The field names are the contract's words, and stable: further ones may come. Sizes are bytes,
durations seconds, times RFC 3339 in UTC.
"""

from __future__ import annotations

import msgspec


class ActiveDelivery(msgspec.Struct, kw_only=True):
    """A delivery that is under way."""

    upload: str
    tus_id: str = ""
    study: str | None = None
    filename: str = ""
    destination: str
    size: int
    """Of the sealed object."""
    delivered: int = 0
    """Bytes of it that the destination holds."""
    bytes_per_second: float = 0.0
    attempts: int = 1


class Health(msgspec.Struct, kw_only=True):
    """How a destination, or the REST API, was when it was last needed."""

    name: str
    """``api`` for the REST API."""
    ok: bool | None = None
    """None: not needed yet."""
    type: str = ""
    error_code: str = ""
    message: str = ""
    since: str = ""
    """When it became so."""


class WorkerStatus(msgspec.Struct, kw_only=True):
    """A worker process."""

    pid: int
    jobs: int = 0
    restarts: int = 0


class Status(msgspec.Struct, kw_only=True):
    """The whole daemon."""

    version: str
    state: str
    """``starting``, ``running``, ``paused`` (no space for the journal), ``stopping``."""
    uptime_seconds: float
    pid: int = 0
    uploads: dict[str, int] = {}
    """How many are in each state."""
    reports: dict[str, int] = {}
    """How many are in each status."""
    deliveries: list[ActiveDelivery] = []
    bytes_in_flight: int = 0
    """Of the deliveries under way, what is left to send."""
    bytes_per_second: float = 0.0
    """Delivered, over the last minute."""
    destinations: list[Health] = []
    api: Health | None = None
    """None where there is no REST API."""
    workers: list[WorkerStatus] = []
    pause: str = ""
    """Why intake pauses; empty where it doesn't."""
