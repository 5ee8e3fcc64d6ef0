"""The power goes, and what was not synced is gone with it: nothing is lost or delivered twice.

A real daemon delivers some uploads, and all that it and the REST API write is recorded. Then the
disk is rebuilt as a power loss would leave it after each point of the recording: held against the
order that the promise needs, and for some points given to a new daemon and then to the oracle.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.observe import audit
from tests.peers import power
from tests.peers.dropoffd import Dropoffd
from tests.peers.oracle import Sent
from tests.peers.power import Call, Disk, Event
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.stores import Folder

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

KIB, MIB = 1024, 1024**2
SIZES = (0, 100 * KIB, 5 * MIB + 1)
"""Two that go out whole, and one in two parts."""
STUDY = str(uuid.uuid4())
PATHS = {"own": "{study}/{upload}/{filename}", "shared": "{upload}-{filename}"}
"""Destinations: one with a directory for each upload, and one with a directory for all."""
POINTS = 4
AT_ONCE = 2


@dataclass(frozen=True)
class Recording:
    """What was written while some uploads were delivered, and what was there before."""

    directory: Path
    recipient: Recipient
    events: list[Event]
    sent: list[Sent]
    identities: dict[str, os.stat_result]
    """Of the sources, by tus id."""

    @property
    def world(self) -> Path:
        """Of the daemon: its own directory, and its destinations."""
        return self.directory / "world"

    @property
    def api(self) -> Path:
        """Of the REST API."""
        return self.directory / "api" / "state"

    @property
    def before(self) -> Path:
        """A copy of both as they were before."""
        return self.directory / "before"

    def disk(self) -> Disk:
        """The disk as it was before."""
        return Disk({self.world: self.before / "world", self.api: self.before / "api"})


def _studies(recipient: Recipient) -> str:
    tables = [f'[destinations.{name}]\ntype = "directory"\ndirectory = "/x"\n' for name in PATHS]
    return "".join(tables) + recipient.study(STUDY, list(PATHS))


def _scene(place: Path, recipient: Recipient) -> Scene:
    tables = ['[pipeline]\nworkers = 1\npart_size = "5MiB"\n']
    for name, path in PATHS.items():
        (place / name).mkdir(parents=True, exist_ok=True)
        tables.append(
            f'[destinations.{name}]\ntype = "directory"\ndirectory = "{place / name}"\n'
            f'path = "{path}"\n'
        )
    stores = {name: Folder(place / name) for name in PATHS}
    return Scene(place, STUDY, recipient, stores, "".join(tables), {})


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    directory = tmp_path_factory.mktemp("power")
    recipient = Recipient(directory)
    (directory / "api").mkdir()
    with ReferenceServer(directory / "api", _studies(recipient), path="/") as api:
        scene = _scene(directory / "world", recipient)
        scene.lay(*SIZES)
        uploads = directory / "world" / "daemon" / "uploads"
        identities = {sent.tus_id: (uploads / sent.tus_id).stat() for sent in scene.sent}
        daemon = scene.daemon(api.api.url)
        before = directory / "before"
        shutil.copytree(directory / "world", before / "world")
        shutil.copytree(directory / "api" / "state", before / "api")
        trace = directory / "trace"
        _record(daemon, trace, api.pid)
        scene.check(daemon, api)
    roots = [directory / "world", directory / "api" / "state"]
    events = power.read(trace, roots)
    return Recording(directory, recipient, events, scene.sent, identities)


def _record(daemon: Dropoffd, trace: Path, api: int) -> None:
    daemon.start(before=power.recorder(trace, [api]))
    strace = daemon.pid
    try:
        daemon.wait_until_over(len(SIZES), 60)
        traced = Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
        os.kill(int(traced[0]), signal.SIGTERM)
        daemon.wait_for(lambda: not Path(f"/proc/{traced[0]}").exists(), 30, "it ended")
    finally:
        # It would go on with the REST API.
        os.kill(strace, signal.SIGTERM)
        daemon.wait(20)


# The order of what is written ----------------------------------------------------------------


def violations(recording: Recording, lost: Callable[[Call], bool] = lambda _: False) -> list[str]:
    """Where a power loss would have broken the promise; ``lost`` are syncs that don't happen."""
    disk = recording.disk()
    finished = _finished(recording)
    found: list[str] = []
    removed: set[str] = set()
    for number, event in enumerate(recording.events):
        call = event.call
        if call.syncs and lost(call):
            continue
        disk.apply(event)
        if not event.ended:
            continue
        source = Path(call.path)
        if call.removes and source.name in recording.identities:
            removed.add(source.name)
        elif not (call.syncs and call.path.endswith("/journal.sqlite-wal")):
            continue
        told = _broken(disk, recording, finished, removed)
        found += [f"at {number}, {call.name} of {call.path}: {each}" for each in told]
    return found


def _finished(recording: Recording) -> dict[str, bytes]:
    disk = recording.disk()
    for event in recording.events:
        disk.apply(event)
    return disk.written(recording.world)


def _broken(
    disk: Disk, recording: Recording, finished: dict[str, bytes], removed: set[str]
) -> Iterator[str]:
    """What doesn't hold if the power goes now."""
    durable = disk.durable(recording.world)
    state = "daemon/state/"
    over: set[str] = set()
    with _database(durable, f"{state}journal.sqlite") as journal:
        for upload, tus_id, at in journal("SELECT id, tus_id, state FROM uploads"):
            if at not in {"stored", "done"}:
                continue
            receipt = f"{state}receipts/{upload}.json"
            if durable.get(receipt) != finished[receipt]:
                yield f"{upload} is {at}, and its receipt isn't on the disk"
            if at == "done":
                yield from _not_over(durable, upload, tus_id)
            over.add(tus_id)
        query = "SELECT json_extract(destination, '$.name'), name FROM deliveries"
        for destination, name in journal(f"{query} WHERE state = 'stored'"):
            path = f"{destination}/{name}"
            if durable.get(path) != finished[path]:
                yield f"the journal says stored of {path}, which isn't on the disk"
    with _database(disk.written(recording.api), "api.sqlite") as api:
        bodies = [json.loads(body) for (body,) in api("SELECT body FROM reports")]
    stored = {body["tus_id"] for body in bodies if body["state"] == "stored"}
    for tus_id in removed - over:
        yield f"the source {tus_id} is gone, and the journal doesn't say that it is stored"
    for tus_id in removed - stored:
        yield f"the source {tus_id} is gone, and the REST API was not told that it is stored"
    for tus_id in stored - over:
        yield f"the REST API was told of {tus_id} what the journal doesn't know"


def _not_over(durable: dict[str, bytes], upload: str, tus_id: str) -> Iterator[str]:
    """What is missing for an upload to be done."""
    for name in {f"daemon/uploads/{tus_id}", f"daemon/uploads/{tus_id}.info"} & durable.keys():
        yield f"{upload} is done, and {name} may come back"
    if upload.encode() not in durable.get(f"daemon/state/{audit.FILE}", b""):
        yield f"{upload} is done, and the audit log doesn't know it"


Ask = Callable[[str], list[tuple[Any, ...]]]


@contextlib.contextmanager
def _database(tree: dict[str, bytes], name: str) -> Iterator[Ask]:
    """A database out of a tree, with its WAL; one without any rows where it isn't there yet."""
    with tempfile.TemporaryDirectory() as place:
        files = {end: tree[name + end] for end in ("", "-wal", "-journal") if name + end in tree}
        power.lay({f"database{end}": data for end, data in files.items()}, Path(place))
        with contextlib.closing(sqlite3.connect(Path(place) / "database")) as database:
            empty = not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            yield lambda query: [] if empty else database.execute(query).fetchall()


def test_nothing_is_relied_on_before_it_is_on_the_disk(recording: Recording) -> None:
    assert violations(recording) == []


SYNCS: dict[str, Callable[[Call], bool]] = {
    "an object": lambda call: call.path.endswith(".dropoffd-part"),
    "an object's directory": lambda call: (
        "/world/own/" in call.path and not call.path.endswith(".dropoffd-part")
    ),
    "a directory for objects": lambda call: call.path.endswith("/world/own"),
    "a directory shared by objects": lambda call: call.path.endswith("/world/shared"),
    "a receipt": lambda call: call.path.endswith(".json.tmp"),
    "the receipts' directory": lambda call: call.path.endswith("/receipts"),
    "the journal": lambda call: call.path.endswith("/journal.sqlite-wal"),
    "the state directory": lambda call: call.path.endswith("/state"),
    "the directory of the state directory": lambda call: call.path.endswith("/world/daemon"),
    "the upload directory": lambda call: call.path.endswith("/uploads"),
    "the audit log": lambda call: call.path.endswith(f"/{audit.FILE}"),
}


@pytest.mark.parametrize("lost", SYNCS)
def test_each_sync_is_needed_and_missed(recording: Recording, lost: str) -> None:
    assert any(event.call.syncs and SYNCS[lost](event.call) for event in recording.events)
    assert violations(recording, SYNCS[lost])


# What a daemon makes of it -------------------------------------------------------------------


def survive(recording: Recording, point: int, *, sources_gone: bool) -> None:
    """Have a daemon go on after a power loss at ``point``, and ask the oracle.

    What it had deleted and not synced is there again, or not: ``sources_gone``.
    """
    place = recording.directory / f"{point}{'-gone' if sources_gone else ''}"
    disk = recording.disk()
    for event in recording.events[:point]:
        disk.apply(event)
    durable, written = disk.durable(recording.world), disk.written(recording.world)
    kept = written if sources_gone else durable
    uploads = "daemon/uploads/"
    tree = {path: data for path, data in durable.items() if not path.startswith(uploads)}
    tree |= {path: data for path, data in kept.items() if path.startswith(uploads)}
    world = place / "world"
    _lay_world(tree, world)
    _moved(recording, world)
    (place / "api").mkdir()
    power.lay(disk.written(recording.api), place / "api" / "state")
    scene = _scene(world, recording.recipient)
    scene.sent = list(recording.sent)
    with ReferenceServer(place / "api", _studies(recording.recipient), path="/") as api:
        with scene.daemon(api.api.url) as daemon:
            daemon.wait_until_over(len(SIZES), 60)
            assert daemon.stop() == 0
        scene.check(daemon, api)
    shutil.rmtree(place)


def _lay_world(tree: dict[str, bytes], world: Path) -> None:
    state = "daemon/state/"
    power.lay({path: data for path, data in tree.items() if not path.endswith("-shm")}, world)
    if any(path.startswith(state) for path in tree):
        (world / state).chmod(0o700)
        (world / state / "receipts").mkdir(exist_ok=True)


def _moved(recording: Recording, world: Path) -> None:
    """Tell a journal that its files are the same ones elsewhere."""
    path = world / "daemon" / "state" / "journal.sqlite"
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as journal, journal:
        for table, columns in _texts(journal):
            changes = ", ".join(f"{column} = replace({column}, ?1, ?2)" for column in columns)
            query = f"UPDATE {table} SET {changes}"  # noqa: S608 -- names of our own schema
            journal.execute(query, (str(recording.world), str(world)))
        if not _texts(journal):
            return
        for tus_id, was in recording.identities.items():
            source = world / "daemon" / "uploads" / tus_id
            if source.exists():
                now = source.stat()
                journal.execute(
                    "UPDATE uploads SET identity = json_set(identity, '$.device', ?, '$.inode', ?,"
                    " '$.mtime_ns', ?, '$.ctime_ns', ?) WHERE tus_id = ?"
                    " AND json_extract(identity, '$.ctime_ns') = ?",
                    (
                        *(now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns),
                        *(tus_id, was.st_ctime_ns),
                    ),
                )


def _texts(journal: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """Tables and their columns that may hold a path, without what was already told to others."""
    tables = [("uploads", ["directory", "path", "info_path"]), ("deliveries", ["destination"])]
    found = {name for (name,) in journal.execute("SELECT name FROM sqlite_schema")}
    return [(table, columns) for table, columns in tables if table in found]


def points(recording: Recording) -> list[int]:
    """Points after which a power loss leaves another disk than before: a sync, a removal."""
    return [
        number + 1
        for number, event in enumerate(recording.events)
        if event.ended
        and (event.call.syncs or event.call.removes)
        and event.call.path.startswith(str(recording.world))
    ]


def _survive_all(recording: Recording, chosen: list[tuple[int, bool]]) -> None:
    def one(choice: tuple[int, bool]) -> str:
        point, gone = choice
        try:
            survive(recording, point, sources_gone=gone)
        except Exception as error:  # noqa: BLE001 -- each is told of below
            call = recording.events[point - 1].call
            return f"{point} ({call.name} of {call.path}), {gone=}: {error!r}"
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [told for told in pool.map(one, chosen) if told]
    assert not wrong, "\n\n".join(wrong)


def test_a_daemon_goes_on_after_a_power_loss_anywhere(recording: Recording) -> None:
    there = points(recording)
    chosen = [*there[:: max(1, len(there) // POINTS)], there[-1]]
    _survive_all(recording, [(point, number % 2 == 0) for number, point in enumerate(chosen)])


@pytest.mark.long
def test_a_daemon_goes_on_after_a_power_loss_everywhere(recording: Recording) -> None:
    _survive_all(
        recording, [(point, gone) for point in points(recording) for gone in (False, True)]
    )
