"""The oracle, asked of a conductor in the test's own process: it finds what is wrong there, too."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from pipeline.errors import DestinationRefusedError
from pipeline.messages import DestinationSpec, Finish, Job
from tests.peers.conveying import Before, Line, LocalWorkers, grow, line, secrets_of, shrink
from tests.peers.deliveries import MIB
from tests.peers.oracle import Failing
from tests.peers.places import Folder

SIZE = 10 * MIB + 1
PASSWORD = "a-password-of-this-test"
REFUSED = Failing("destination_refused", begun=True)


class Stage:
    """A line to a directory, which says no to what ends in vain, and what can be done to it."""

    def __init__(self, store: Path, made: Line) -> None:
        self.store = store
        self.line = made
        self.upload = ""
        self.key = b""
        """The session key of one that failed."""

    @property
    def place(self) -> Folder:
        return Folder(DestinationSpec(name="folder", type="directory", directory=str(self.store)))

    @property
    def source(self) -> Path:
        return self.line.uploads / "u1"

    async def convey(self, size: int) -> None:
        """Let an upload come to its end."""
        self.upload = await self.line.receive(size)
        async with self.line.running():
            over = await self.line.over(self.upload)
        if over.error:
            self.key = (await self.line.journal.envelope(self.upload)).key

    def lay(self, name: str) -> None:
        """Something lies in the store."""
        path = self.store / self.upload / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")

    def journal(self, change: str) -> None:
        """Have the journal say otherwise."""
        with (
            contextlib.closing(sqlite3.connect(self.line.state / "journal.sqlite")) as journal,
            journal,
        ):
            journal.execute(change)

    def tell(self, path: Path, text: str) -> None:
        """Have a file say more."""
        with path.open("a") as file:
            file.write(text)

    def drop_last_report(self) -> None:
        self.line.reporter.drops()[0]["reports"].pop()


def _refuse(job: Job) -> None:
    """The last step of what is large is refused."""
    if isinstance(job, Finish):
        raise DestinationRefusedError("on purpose")


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = tmp_path / "store"
    store.mkdir()
    # No directory has a password; the plan tells of one all the same.
    spec = DestinationSpec(name="folder", type="directory", directory=str(store), password=PASSWORD)
    async with (
        LocalWorkers() as workers,
        line(tmp_path, Before(workers, _refuse), spec) as made,
    ):
        yield Stage(store, made)


async def test_where_all_is_right_nothing_is_found(stage: Stage) -> None:
    await stage.convey(1000)
    assert "upload_stored" in stage.line.log.read_text()
    await stage.line.judged(stage.place, stage.upload)


def test_each_line_of_a_private_key_is_secret(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("-----BEGIN-----\none\ntwo\n-----END-----\n")
    spec = DestinationSpec(name="far", type="sftp", password=PASSWORD, key=str(key))
    assert secrets_of(spec) == [PASSWORD, "one", "two"]


async def test_where_it_fails_as_it_has_to_nothing_is_found(stage: Stage) -> None:
    await stage.convey(SIZE)
    assert "upload_failed" in stage.line.log.read_text()
    await stage.line.judged(stage.place, stage.upload, REFUSED)


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        (None, "is failed, not done"),
        (Failing("source_changed", begun=True), "failed by destination_refused"),
        (Failing("destination_refused"), "OrphanError: begun and not ended"),
    ],
    ids=["not at all", "by another code", "and leaves nothing"],
)
async def test_one_that_has_to_fail_otherwise_is_found(
    stage: Stage, failing: Failing | None, told: str
) -> None:
    await stage.convey(SIZE)
    with pytest.raises(AssertionError, match=told):
        await stage.line.judged(stage.place, stage.upload, failing)


FAULTS: dict[str, tuple[int, Callable[[Stage], object], str]] = {
    "an object is there twice": (1000, lambda s: s.lay("again"), "TwiceError"),
    "something is begun": (1000, lambda s: s.lay("x.dropoffd-part"), "OrphanError: begun"),
    "the source is left": (1000, lambda s: s.source.touch(), "OrphanError: left behind"),
    "a report was not told": (1000, lambda s: s.drop_last_report(), "LostError|told otherwise"),
    "the password is in the log": (
        1000,
        lambda s: s.tell(s.line.log, PASSWORD),
        "holds a secret",
    ),
    "the password is in a row": (
        1000,
        lambda s: s.journal(f'UPDATE deliveries SET destination = \'{{"x":"{PASSWORD}"}}\''),  # noqa: S608 -- ours
        "holds a secret",
    ),
    "no deletion is on record": (
        1000,
        lambda s: (s.line.state / "audit.jsonl").unlink(),
        "other deletions are told",
    ),
    "one that failed has an object": (SIZE, lambda s: s.lay("f.bam.c4gh"), "OrphanError"),
    "one that failed began twice": (
        SIZE,
        lambda s: s.lay(f".other.{s.upload}.dropoffd-part"),
        "OrphanError: begun and not ended",
    ),
    "nobody knows what was begun": (
        SIZE,
        lambda s: s.journal("UPDATE deliveries SET reference = ''"),
        "OrphanError: begun and not ended",
    ),
    "the source of one that failed grew": (SIZE, lambda s: grow(s.source), "LostError"),
    "the source of one that failed shrank": (SIZE, lambda s: shrink(s.source), "LostError"),
    "the source of one that failed is gone": (SIZE, lambda s: s.source.unlink(), "LostError"),
    "the .info of one that failed is gone": (
        SIZE,
        lambda s: s.source.with_name("u1.info").unlink(),
        "LostError",
    ),
    "nobody was told that it failed": (SIZE, lambda s: s.drop_last_report(), "told otherwise"),
    "the session key of one that failed is in the log": (
        SIZE,
        lambda s: s.tell(s.line.log, base64.b64encode(s.key).decode()),
        "holds a secret",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_finds_whatever_is_wrong_with_a_line(stage: Stage, fault: str) -> None:
    size, spoil, told = FAULTS[fault]
    await stage.convey(size)
    spoil(stage)
    with pytest.raises(AssertionError, match=told):
        await stage.line.judged(stage.place, stage.upload, REFUSED if size == SIZE else None)
