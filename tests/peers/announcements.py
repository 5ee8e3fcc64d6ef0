"""What a daemon's journal holds of announcements, and how a day passes for them."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.peers.dropoffd import Dropoffd

DAY = 86_400.0


def age(daemon: Dropoffd) -> None:
    """Have a day pass for what was asked and announced, while no daemon runs."""
    with _journal(daemon) as journal, journal:
        journal.execute("UPDATE askings SET created_at = created_at - ?", (DAY,))
        journal.execute("UPDATE announcements SET created_at = created_at - ?", (DAY,))


def asked(daemon: Dropoffd) -> int:
    """How many questions of pre-create have no answer yet."""
    return _count(daemon, "SELECT count(*) FROM askings")


def announced(daemon: Dropoffd) -> int:
    """How many announcements no upload followed yet."""
    return _count(daemon, "SELECT count(*) FROM announcements")


def are_over(daemon: Dropoffd) -> bool:
    """Whether there is none of either, and the REST API knows."""
    pending = "SELECT count(*) FROM reports WHERE status = 'pending'"
    return not (asked(daemon) or announced(daemon) or _count(daemon, pending))


def _count(daemon: Dropoffd, query: str) -> int:
    with _journal(daemon) as journal:
        return int(journal.execute(query).fetchone()[0])


def _journal(daemon: Dropoffd) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(daemon.state / "journal.sqlite", timeout=10))
