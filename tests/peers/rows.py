"""What a daemon's journal says. Part of the oracle, see :mod:`tests.peers.oracle`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.traces import Ran, journal_of

_SECRETS = (
    "SELECT count(*) FROM uploads WHERE secret IS NOT NULL AND {over}",
    (
        "SELECT count(*) FROM deliveries AS d WHERE secret IS NOT NULL AND EXISTS"
        " (SELECT 1 FROM uploads WHERE id = d.upload AND {over})"
    ),
)
OVER = "state <> 'failed'"
"""Where all is over, no secret is kept but of what failed, which may be tried again."""
DONE = "state = 'done'"
"""Likewise while uploads are left."""

Reports = Mapping[str, Sequence[Mapping[str, Any]]]
"""What the REST API heard, by its own ids."""


@dataclass(frozen=True)
class Known:
    """What it says of an upload."""

    upload: str
    state: str
    error: str | None
    """JSON."""
    receipt: Mapping[str, Any] | None


def known(daemon: Ran) -> dict[str, list[Known]]:
    """All uploads that it has, by tus id."""
    found: dict[str, list[Known]] = {}
    query = "SELECT tus_id, id, state, error, receipt FROM uploads"
    with journal_of(daemon) as journal:
        for tus_id, upload, state, error, receipt in journal.execute(query):
            row = Known(upload, state, error, json.loads(receipt) if receipt else None)
            found.setdefault(tus_id, []).append(row)
    return found


def begun(daemon: Ran, tus_ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids of those of these uploads that it has begun, by destination."""
    found: dict[str, list[str]] = {}
    wanted = set(tus_ids)
    with journal_of(daemon) as journal:
        for name, upload, tus_id in journal.execute(
            "SELECT destination ->> '$.name', upload, tus_id FROM deliveries"
            " JOIN uploads ON uploads.id = upload WHERE reference <> ''"
        ):
            if tus_id in wanted:
                found.setdefault(name, []).append(upload)
    return found


def check_states(
    rows: Mapping[str, Sequence[Known]], sent: Iterable[str], failing: Mapping[str, str]
) -> None:
    """These tus ids' uploads are done; those of ``failing`` failed with the code that it has.

    An empty code is whichever.
    """
    for tus_id, row in [(each, row) for each in sent for row in rows.get(each, ())]:
        wanted = "failed" if tus_id in failing else "done"
        assert row.state == wanted, f"{tus_id} is {row.state}, not {wanted}: {row.error}"
        if code := failing.get(tus_id):
            told = json.loads(row.error or "{}").get("code")
            assert told == code, f"{tus_id} failed by {told}, not {code}"


def check_journal(daemon: Ran, told: Reports, begun: Iterable[str] = ()) -> None:
    """It is whole, keeps no session key, waits for nothing, and told the REST API all reports.

    ``begun`` has the tus ids of failed uploads whose deliveries a `retry` goes on with.
    """
    check_whole(daemon, OVER)
    with journal_of(daemon) as journal:
        under_way = {
            tus_id
            for (tus_id,) in journal.execute(
                "SELECT tus_id FROM deliveries JOIN uploads ON uploads.id = upload"
                " WHERE reference <> '' OR deliveries.state = 'pending'"
            )
        } - set(begun)
        assert not under_way, f"deliveries are under way: {under_way}"
        waiting = "SELECT count(*) FROM reports WHERE status <> 'acknowledged'"
        assert journal.execute(waiting).fetchone() == (0,), "reports wait"
    for api_id, ours in _reports(daemon).items():
        bodies = [body for _, body in ours]
        assert list(told.get(api_id, ())) == bodies, f"{api_id} was told otherwise"


def check_told_so_far(daemon: Ran, told: Reports) -> None:
    """What the REST API heard are the first of its reports, and all that were acknowledged."""
    reports = _reports(daemon)
    for api_id, heard in told.items():
        ours = reports.get(api_id, [])
        bodies = [body for _, body in ours]
        assert list(heard) == bodies[: len(heard)], f"{api_id} was told otherwise"
        acknowledged = sum(status == "acknowledged" for status, _ in ours)
        assert acknowledged <= len(heard), f"{api_id} was not told all"


def check_whole(daemon: Ran, over: str) -> None:
    """The file is whole, and keeps no secret of uploads that are ``over``, a condition in SQL."""
    with journal_of(daemon) as journal:
        assert journal.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert journal.execute("PRAGMA foreign_key_check").fetchall() == []
        for query in _SECRETS:
            kept = journal.execute(query.format(over=over)).fetchone()
            assert kept == (0,), f"secrets are kept: {query}"


def _reports(daemon: Ran) -> dict[str, list[tuple[str, Any]]]:
    """Status and body of each, in order, by the REST API's id."""
    found: dict[str, list[tuple[str, Any]]] = {}
    query = (
        "SELECT api_id, status, body FROM reports JOIN uploads ON uploads.id = upload"
        " ORDER BY sequence"
    )
    with journal_of(daemon) as journal:
        for api_id, status, body in journal.execute(query):
            found.setdefault(api_id, []).append((status, json.loads(body)))
    return found
