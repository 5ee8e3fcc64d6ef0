"""Uploads on their way in through a real tusd, which a real daemon follows to four stores."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers.deliveries import MIB
from tests.peers.dropoffd import Dropoffd
from tests.peers.four_stores import NAMES, FourStores
from tests.peers.oracle import Sent, check_delivered
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient
from tests.peers.seaweedfs import Weed
from tests.peers.tus_client import TusClient
from tests.peers.tusd import Tusd

PART = 5 * MIB
"""Of plaintext; the least that S3 and Nextcloud take."""
SIZE = 3 * PART + 3 * MIB + 12_345
HALF = 2 * PART + 2 * MIB + 7
"""So much is there when two parts are whole."""
PATIENCE = 120.0


@dataclass
class Arriving:
    """An upload that its client sends piece by piece."""

    url: str
    tus_id: str
    filename: str
    study: str
    client: TusClient
    data: bytes

    async def send(self, end: int) -> None:
        """Send on from where the server is, up to byte ``end``."""
        offset = await self.client.offset(self.url)
        await self.client.patch(self.url, offset, self.data[offset:end])

    @property
    def sent(self) -> Sent:
        """What has to arrive."""
        sha256 = hashlib.sha256(self.data).hexdigest()
        return Sent(self.tus_id, self.study, self.filename, len(self.data), sha256)


@dataclass
class Arrivals:
    """Everything that an upload meets, each a process of its own."""

    stores: FourStores
    api: ReferenceServer
    daemon: Dropoffd
    tusd: Tusd
    client: TusClient
    recipient: Recipient
    study: str
    uploads: list[Arriving] = field(default_factory=list)

    async def begin(self, size: int | None = SIZE, filename: str = "f.bam") -> Arriving:
        """Have a client make an upload, of a deferred length where there is none."""
        data = random.Random(filename).randbytes(SIZE if size is None else size)
        url = await self.client.create(size, {"study": self.study, "filename": filename})
        tus_id = self.client.tus_id(url)
        arriving = Arriving(url, tus_id, filename, self.study, self.client, data)
        self.uploads.append(arriving)
        return arriving

    async def half(self) -> Arriving:
        """An upload of which two parts are at every destination, and no more came yet."""
        arriving = await self.begin()
        await arriving.send(HALF)
        await self.parts(2)
        return arriving

    def path(self, arriving: Arriving) -> Path:
        """Where tusd has its bytes."""
        return self.daemon.uploads / arriving.tus_id

    async def parts(self, count: int) -> None:
        """Until every destination holds so many whole parts of the only upload that comes in."""

        def there() -> bool:
            stored = self.stored()
            return set(stored) == set(NAMES) and min(stored.values()) >= count * PART

        await self.until(there, f"{count} parts are everywhere")

    def stored(self) -> dict[str, int]:
        """Bytes of the parts that are there, by destination, of deliveries under way."""
        status = self.daemon.status()
        assert status is not None
        return {each["destination"]: each["stored_bytes"] for each in status["deliveries"]}

    def counts(self) -> dict[str, int]:
        """How many uploads there are in each state."""
        status = self.daemon.status()
        assert status is not None
        return {state: count for state, count in status["uploads"].items() if count}

    def in_flight(self) -> int:
        """Parts and small uploads that a worker has, or waits for."""
        status = self.daemon.status()
        assert status is not None
        return sum(each["in_flight"] for each in status["destinations"])

    def reports(self, arriving: Arriving) -> list[dict[str, Any]]:
        """What the REST API was told of an upload."""
        for drop in self.api.drops():
            if any(report["tus_id"] == arriving.tus_id for report in drop["reports"]):
                reports: list[dict[str, Any]] = drop["reports"]
                return reports
        return []

    async def done(self) -> None:
        """Until all uploads that are left are done; then everything has to be right."""
        count = len(self.uploads)
        await self.until(lambda: self.counts().get("done") == count, f"{count} uploads are done")
        sent = [arriving.sent for arriving in self.uploads]
        await asyncio.to_thread(
            check_delivered, sent, self.api.drops(), self.stores.all, self.recipient.secret_key
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Until a condition holds, while all that runs beside the test goes on."""
        await asyncio.to_thread(self.daemon.wait_for, condition, PATIENCE, what)

    def reboot(self) -> None:
        """Have the stopped daemon's journal be of an earlier boot of the machine."""
        with self._journal() as journal, journal:
            journal.execute("UPDATE uploads SET trail = json_set(trail, '$.boot', 'another')")

    def key_is_kept(self) -> bool:
        """Whether the journal has a session key."""
        with self._journal() as journal:
            query = "SELECT count(*) FROM uploads WHERE secret IS NOT NULL"
            return bool(journal.execute(query).fetchone()[0])

    def _journal(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self.daemon.state / "journal.sqlite", timeout=10))


@contextlib.asynccontextmanager
async def arrivals(directory: Path, weed: Weed) -> AsyncIterator[Arrivals]:
    """All of it, running. A client's uploads are followed from 6 MiB on."""
    study = str(uuid.uuid4())
    recipient = Recipient(directory)
    tables = [f'[destinations.{name}]\ntype = "directory"\ndirectory = "/x"\n' for name in NAMES]
    (directory / "api").mkdir()
    api = ReferenceServer(
        directory / "api", "".join(tables) + recipient.study(study, NAMES), path="/"
    )
    async with contextlib.AsyncExitStack() as stack:
        stores = await stack.enter_async_context(FourStores(directory, weed, study))
        stack.enter_context(api)
        config = f'{stores.config}[pipeline]\nfollow_after = "6MiB"\npart_size = "5MiB"\n'
        secrets = {**api.asked_at(api.api.url), **stores.secrets}
        daemon = stack.enter_context(Dropoffd(directory / "daemon", config, secrets))
        hooks = directory / "hooks"
        daemon.cli("install", "hooks", "--directory", str(hooks), "--server", "tusd")
        tusd = stack.enter_context(Tusd(daemon.uploads, hooks=hooks))
        client = await stack.enter_async_context(TusClient(tusd.url))
        yield Arrivals(stores, api, daemon, tusd, client, recipient, study)
