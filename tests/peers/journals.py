"""What tests tell a journal, with only the interesting things to name."""

from __future__ import annotations

from typing import Any

from daemon.journal.model import (
    Announcement,
    Attempt,
    Envelope,
    Error,
    Identity,
    NewDelivery,
    Report,
    Sighting,
    Upload,
    Work,
)
from daemon.journal.protocol import Journal
from daemon.processing.conductor import LEFT
from pipeline.messages import DestinationSpec, StoredObject, StoredPart

STUDY = "11111111-2222-4333-8444-555555555555"
OTHER_STUDY = "99999999-2222-4333-8444-555555555555"
DIRECTORY = "/srv/tusd"
SESSION_KEY = bytes(range(32))
ERROR = Error(code="destination_unreachable", message="away", retryable=True)
RECEIPT = {"version": 1, "digest": {"sha256": "00"}}


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.reports = 0
        self.withdrawn: list[str] = []

    def on_work(self, work: Work) -> None:
        self.work.append(work)

    def on_reports(self) -> None:
        self.reports += 1

    def on_withdrawn(self, upload: str) -> None:
        self.withdrawn.append(upload)


def identity(size: int = 1000, inode: int = 7, mtime_ns: int = 10**18) -> Identity:
    return Identity(device=2, inode=inode, size=size, mtime_ns=mtime_ns, ctime_ns=mtime_ns)


def sighting(tus_id: str = "t1", received: int = 1000, **changes: Any) -> Sighting:  # noqa: ANN401 - any field of it
    size = changes.setdefault("size", 1000)
    changes.setdefault("complete", received == size)
    changes.setdefault("identity", identity(received))
    metadata = {"filename": "reads.fastq", "study": changes.get("study", STUDY) or ""}
    fields: dict[str, Any] = {
        "directory": DIRECTORY,
        "server": "tusd",
        "path": tus_id,
        "info_path": f"{DIRECTORY}/{tus_id}.info",
        "metadata": metadata,
        "study": STUDY,
        "filename": "reads.fastq",
        "dropoff_id": None,
    }
    return Sighting(**(fields | changes), tus_id=tus_id, received=received)


def announcement(name: str = "a1", **changes: Any) -> Announcement:  # noqa: ANN401 - any field of it
    fields: dict[str, Any] = {
        "api_id": f"api-{name}",
        "study": STUDY,
        "filename": "reads.fastq",
        "size": 1000,
        "metadata": {"filename": "reads.fastq", "study": STUDY},
        "tus_id": None,
        "created_at": 50.0,
    }
    return Announcement(**(fields | changes), id=name)


def envelope(key: bytes = SESSION_KEY) -> Envelope:
    return Envelope(
        format="crypt4gh" if key else "none", key=key, header=b"header", fingerprints=("f1",)
    )


def inline(name: str = "inline-0") -> DestinationSpec:
    return DestinationSpec(
        name=name,
        type="s3",
        endpoint="https://s3.example.org",
        bucket="archive",
        access_key="ACCESS-clear-text",
        secret_key="SECRET-clear-text",
        session_token="TOKEN-clear-text",
    )


def new_delivery(spec: DestinationSpec | None = None, part_size: int = 400) -> NewDelivery:
    spec = spec or inline()
    return NewDelivery(
        destination=spec, name=f"{spec.name}/reads.c4gh", size=1100, part_size=part_size
    )


def part(number: int = 1, size: int = 400, crc: int = 2**64 - 1) -> StoredPart:
    return StoredPart(number=number, size=size, etag=f"e{number}", crc64nvme=crc)


def attempt(position: int = 0, error: Error | None = None) -> Attempt:
    return Attempt(position=position, started_at=100.0, seconds=1.5, sent=1100, error=error)


def stored_object() -> StoredObject:
    return StoredObject(
        uri="s3://archive/x", size=1100, checksum={"crc64nvme": "AA=="}, verified="checksum"
    )


async def received(journal: Journal, tus_id: str = "t1", api_id: str | None = "api-1") -> Upload:
    """A complete upload that the broker took."""
    upload = await journal.sight(sighting(tus_id), 100.0)
    await journal.announced(upload.id, api_id)
    return await journal.upload(upload.id)


async def processing(
    journal: Journal, tus_id: str = "t1", api_id: str | None = "api-1", deliveries: int = 1
) -> Upload:
    """One with an envelope and deliveries."""
    upload = await received(journal, tus_id, api_id)
    planned = [new_delivery(inline(f"inline-{number}")) for number in range(deliveries)]
    await journal.plan(upload.id, envelope(), planned, identity(), 101.0)
    return await journal.upload(upload.id)


async def stored(journal: Journal, tus_id: str = "t1", api_id: str | None = "api-1") -> Upload:
    """One that every destination holds."""
    upload = await processing(journal, tus_id, api_id)
    await journal.attempt(upload.id, 0, 102.0)
    await journal.delivered(upload.id, 0, stored_object(), attempt(), 103.0)
    await journal.stored(upload.id, RECEIPT, 104.0)
    return await journal.upload(upload.id)


async def acknowledge_all(journal: Journal) -> list[Report]:
    """Be an API that takes everything; what it got, in order."""
    taken: list[Report] = []
    while due := await journal.due_reports(1e12, 100):
        for report in due:
            await journal.acknowledged(report.id)
            taken.append(report)
    return taken


async def left_to_do(journal: Journal) -> list[Work]:
    """Every upload that something is left to do for, oldest first."""
    found: list[tuple[int, Work]] = []
    for state in LEFT:
        after = 0
        while page := await journal.work_page(state, after, 100):
            found += page
            after = page[-1][0]
    return [work for _, work in sorted(found, key=lambda each: each[0])]
