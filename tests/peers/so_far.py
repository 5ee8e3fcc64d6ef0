"""The oracle where work was left: what was killed amid many uploads has lost none of them so far.

Each upload is in the stores as it was sent, or lies where its client sent it. See
:mod:`tests.peers.oracle`, which judges what is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.peers import rows, traces
from tests.peers.oracle import (
    ORDER,
    Evidence,
    Held,
    Sent,
    by_tus_id,
    check_held,
    check_object,
    check_receipt,
    check_reports,
    check_source,
    ids_in,
)
from tests.peers.rows import Known
from tests.peers.verdicts import LostError, OrphanError, TwiceError, Verdict

WAITING = ("receiving", "received", "processing")
STORED = ("stored", "done")


def judge_so_far(found: Evidence) -> Verdict:
    """Hold everything against what it may be while uploads are left; whatever ran was killed."""
    verdict = Verdict(uploads=len(found.sent))
    known = rows.known(found.daemon)
    held = {name: Held(store) for name, store in found.stores.items()}
    told: Mapping[str, Mapping[str, Any]] = {}
    with verdict.noting():
        told = by_tus_id(found.drops or ())
    for upload in found.sent:
        heard = told[upload.tus_id]["reports"] if upload.tus_id in told else []
        there = {name: held[name] for name in found.stores_of(upload)}
        with verdict.noting():
            _check(found, upload, known.get(upload.tus_id, ()), heard, there)
    states = {row.upload: row.state for each in known.values() for row in each}
    for name, each in held.items():
        with verdict.noting():
            _check_owned(name, each, states)
    reports = {drop["id"]: drop["reports"] for drop in found.drops or ()}
    checks: list[Callable[[], object]] = [
        lambda: _check_sent(found, known),
        lambda: _check_receipts(found, known),
        lambda: rows.check_whole(found.daemon, rows.DONE),
        lambda: rows.check_told_so_far(found.daemon, reports),
        lambda: _check_audit(found, states),
        lambda: traces.check_secrets(found.daemon, found.secrets),
    ]
    for check in checks:
        with verdict.noting():
            check()
    return verdict


def _check(
    found: Evidence,
    upload: Sent,
    known: Sequence[Known],
    reports: Sequence[Mapping[str, Any]],
    held: Mapping[str, Held],
) -> None:
    """An upload is in one place at least, and in none wrongly."""
    if len(known) > 1:
        raise TwiceError(f"{upload} is known as {known}")
    if not known or known[0].state in WAITING:
        check_source(upload, found.daemon)
        _check_waiting(found, upload, known[0].upload if known else None, reports, held)
        return
    (row,) = known
    assert row.state in STORED, f"{upload} is {row.state}"
    assert row.receipt is not None, f"{upload} is {row.state} without a receipt"
    check_receipt(upload, row.receipt)
    check_held(upload, row.receipt, held, found.opener)
    source = found.daemon.uploads / upload.tus_id
    if row.state == "done":
        if found.drops is not None:
            assert check_reports(upload, reports) == row.receipt, f"{upload}: other receipts"
        # Its data goes first, so that what is left of it is found.
        info = source.with_name(f"{source.name}.info")
        if source.exists() or info.exists():
            raise OrphanError(f"{upload} is done, and its source is there")
    elif source.exists():
        check_source(upload, found.daemon)


def _check_waiting(
    found: Evidence,
    upload: Sent,
    known_as: str | None,
    reports: Sequence[Mapping[str, Any]],
    held: Mapping[str, Held],
) -> None:
    """Nobody says that it is stored. An object whose answer was lost is all right."""
    states = [report["state"] for report in reports]
    assert states == sorted(states, key=ORDER[:-1].index), f"{upload}: states go back: {states}"
    for name, each in held.items():
        mine = each.of(known_as or "")
        if len(mine) > 1:
            raise TwiceError(f"{upload} is {len(mine)} times in {name}: {mine}")
        for key in mine:
            check_object(upload, each.store, key, found.opener)


def _check_owned(name: str, held: Held, states: Mapping[str, str]) -> None:
    """Each object is of an upload that is known, and only those under way have begun anything."""
    owned = {key for upload in states for key in held.of(upload)}
    if others := set(held.names) - owned:
        raise OrphanError(f"nobody knows of {sorted(others)[:10]} in {name}")
    under_way = {upload for upload, state in states.items() if state == "processing"}
    left = [each for each in held.store.unfinished() if not under_way & ids_in(each)]
    if left:
        raise OrphanError(f"begun and not ended in {name}: {left[:10]}")


def _check_sent(found: Evidence, known: Mapping[str, object]) -> None:
    """Nothing is known, or lies there, that nobody sent."""
    sent = {upload.tus_id for upload in found.sent}
    there = {path.name.removesuffix(".info") for path in found.daemon.uploads.iterdir()}
    if others := (known.keys() | there) - sent:
        raise OrphanError(f"nobody sent {sorted(others)[:10]}")


def _check_receipts(found: Evidence, known: Mapping[str, Sequence[Known]]) -> None:
    """Those of stored uploads lie there; of one that is not yet, it may have been written."""
    kept = traces.kept_receipts(found.daemon)
    every = [row for each in known.values() for row in each]
    for row in every:
        if row.state in STORED and kept.pop(row.upload, None) != row.receipt:
            raise LostError(f"the receipt of {row.upload} is not what was told")
    under_way = {row.upload for row in every if row.state == "processing"}
    assert kept.keys() <= under_way, f"receipts of what is not stored: {kept.keys() - under_way}"


def _check_audit(found: Evidence, states: Mapping[str, str]) -> None:
    """The chain is whole, and has each deletion of what is done, and none of what is not stored."""
    deleted = traces.deletions(found.daemon)
    stored = {upload for upload, state in states.items() if state in STORED}
    done = {upload for upload, state in states.items() if state == "done"}
    assert done <= deleted <= stored, f"other deletions are told: {deleted ^ done}"
