"""The pool of worker processes, with real processes and a directory to write to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from daemon.workers import WorkerPool
from pipeline.channel import Order
from pipeline.envelope import by_format
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    SourceChangedError,
    WorkerLostError,
)
from pipeline.messages import (
    Abort,
    Begin,
    Begun,
    DestinationSpec,
    Digest,
    Digested,
    DigestName,
    Finish,
    Finished,
    JobFrame,
    Part,
    PartStored,
    Seal,
    Span,
    Target,
    Whole,
    WholeStored,
)

MIB = 1024 * 1024
SIZE = 3 * MIB + 17
PLAIN = Seal(format="none", key=b"", header=b"", size=SIZE)


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
async def pool(complaints: list[str]) -> AsyncIterator[WorkerPool]:
    async with WorkerPool(2, complain=complaints.append) as started:
        yield started


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def source(tmp_path: Path, data: bytes) -> Iterator[int]:
    (tmp_path / "source").write_bytes(data)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def store(tmp_path: Path) -> DestinationSpec:
    (tmp_path / "store").mkdir()
    return DestinationSpec(name="store", type="directory", directory=str(tmp_path / "store"))


def target_of(name: str, size: int = SIZE) -> Target:
    return Target(upload="0190-up", name=name, size=size)


def spans(length: int = MIB) -> list[Span]:
    return [
        Span(number=n, offset=offset, length=min(length, SIZE - offset))
        for n, offset in enumerate(range(0, SIZE, length), 1)
    ]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def told_by(pid: int, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


def ignores(pid: int, number: signal.Signals) -> bool:
    (mask,) = re.findall(rb"SigIgn:\t([0-9a-f]+)", told_by(pid, "status"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def open_files(pid: int) -> set[str]:
    return {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # other processes set no event
            await asyncio.sleep(0.01)


async def everyone(pool: WorkerPool) -> tuple[int, ...]:
    """Two that send, and the one that reads, which has had a job by now."""
    await until(lambda: len(pool.pids) == 3)
    return pool.pids


async def test_parts_of_several_workers_make_one_file(
    pool: WorkerPool, source: int, data: bytes, store: DestinationSpec, tmp_path: Path
) -> None:
    target = target_of("a/0190-up/file")
    begun = await pool.run(Begin(destination=store, target=target))
    assert isinstance(begun, Begun)
    results = await asyncio.gather(
        *(
            pool.run(
                Part(
                    destination=store,
                    target=target,
                    reference=begun.reference,
                    seal=PLAIN,
                    span=span,
                ),
                source,
            )
            for span in spans()
        )
    )
    parts = tuple(result.part for result in results if isinstance(result, PartStored))
    assert not (tmp_path / "store/a/0190-up/file").exists()
    finish = Finish(destination=store, target=target, reference=begun.reference, parts=parts)
    done = await pool.run(finish)
    assert isinstance(done, Finished)
    assert (tmp_path / "store/a/0190-up/file").read_bytes() == data
    assert done == await pool.run(finish)


@pytest.mark.parametrize("name", ["sha256", "blake3"])
async def test_a_digest_is_that_of_the_whole_file(
    name: DigestName, pool: WorkerPool, source: int, data: bytes
) -> None:
    result = await pool.run(Digest(digest=name, size=SIZE), source)
    right = hashlib.sha256(data) if name == "sha256" else blake3(data)
    assert result == Digested(digest=right.hexdigest())


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
async def test_a_file_of_another_size_is_told(
    size: int, pool: WorkerPool, source: int, store: DestinationSpec, tmp_path: Path
) -> None:
    with pytest.raises(SourceChangedError):
        await pool.run(Digest(digest="sha256", size=size), source)
    seal = Seal(format="none", key=b"", header=b"", size=size)
    with pytest.raises(SourceChangedError):
        await pool.run(
            Whole(destination=store, target=target_of("x", size), seal=seal, digest="sha256"),
            source,
        )
    assert not list((tmp_path / "store").iterdir())


async def test_a_whole_upload_goes_through_with_its_digest(
    pool: WorkerPool, source: int, data: bytes, store: DestinationSpec, tmp_path: Path
) -> None:
    layout = by_format("crypt4gh")
    seal = Seal(format="crypt4gh", key=b"k" * 32, header=b"h" * 124, size=SIZE)
    target = target_of("x", layout.sealed_size(124, SIZE))
    result = await pool.run(
        Whole(destination=store, target=target, seal=seal, digest="sha256"), source
    )
    assert isinstance(result, WholeStored)
    assert result.digest == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "store/x").stat().st_size == target.size == result.stored.size


async def test_an_error_comes_back_as_what_it_was(
    pool: WorkerPool, store: DestinationSpec, tmp_path: Path
) -> None:
    with pytest.raises(DestinationRefusedError, match="no name below"):
        await pool.run(Begin(destination=store, target=target_of("../x")))
    away = DestinationSpec(name="away", type="directory", directory=str(tmp_path / "away"))
    with pytest.raises(DestinationUnreachableError, match="No such file"):
        await pool.run(Begin(destination=away, target=target_of("x")))
    open_line = DestinationSpec(name="dav", type="webdav", url="http://dav.example", password="p")
    with pytest.raises(DestinationRefusedError, match="only sent by https"):
        await pool.run(Begin(destination=open_line, target=target_of("x")))


def slow_source(tmp_path: Path) -> int:
    """So large that its digest takes minutes, and no block of it on the disk."""
    with (tmp_path / "slow").open("wb") as file:
        file.truncate(1 << 40)
    return os.open(tmp_path / "slow", os.O_RDONLY)


async def test_jobs_of_a_killed_worker_are_lost_and_others_take_over(
    pool: WorkerPool, source: int, tmp_path: Path, complaints: list[str]
) -> None:
    slow = slow_source(tmp_path)
    await pool.run(Digest(digest="sha256", size=SIZE), source)
    before = await everyone(pool)
    running = [
        asyncio.create_task(pool.run(Digest(digest="sha256", size=1 << 40), slow)) for _ in range(2)
    ]
    await asyncio.sleep(0.1)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for task in running:
        with pytest.raises(WorkerLostError):
            await task
    os.close(slow)
    assert isinstance(await pool.run(Digest(digest="sha256", size=SIZE), source), Digested)
    assert not set(before) & set(pool.pids)
    assert len(complaints) == 3


async def test_a_cancelled_job_is_over_when_its_caller_goes_on(
    pool: WorkerPool, source: int, tmp_path: Path
) -> None:
    slow = slow_source(tmp_path)
    running = asyncio.create_task(pool.run(Digest(digest="sha256", size=1 << 40), slow))
    await asyncio.sleep(0.5)
    pids = pool.pids
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    os.close(slow)
    path = str(tmp_path / "slow")
    for pid in pids:
        assert path not in open_files(pid)
    assert pool.pids == pids
    assert isinstance(await pool.run(Digest(digest="sha256", size=SIZE), source), Digested)


async def test_closing_ends_every_process_and_every_job(tmp_path: Path) -> None:
    slow = slow_source(tmp_path)
    pool = WorkerPool(2)
    await pool.start()
    running = asyncio.create_task(pool.run(Digest(digest="sha256", size=1 << 40), slow))
    pids = await everyone(pool)
    await asyncio.sleep(0.2)
    await asyncio.wait_for(pool.aclose(), 10)
    with pytest.raises(WorkerLostError):
        await running
    for pid in pids:
        assert not alive(pid)
    with pytest.raises(WorkerLostError):
        await pool.run(Digest(digest="sha256", size=1 << 40), slow)
    os.close(slow)


DAEMON = """
import asyncio, os, sys
from daemon.workers import WorkerPool
from pipeline.messages import Digest
async def main():
    async with WorkerPool(2) as pool:
        fd = os.open(sys.argv[1], os.O_RDONLY)
        task = asyncio.create_task(pool.run(Digest(digest="sha256", size=1 << 40), fd))
        while len(pool.pids) < 3:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        print(*pool.pids, flush=True)
        await task
asyncio.run(main())
"""


async def test_no_worker_outlives_a_killed_daemon(tmp_path: Path) -> None:
    os.close(slow_source(tmp_path))
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(tmp_path / "slow"), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    pids = [int(word) for word in (await daemon.stdout.readline()).split()]
    assert len(pids) == 3
    daemon.kill()
    await daemon.wait()
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_signals_of_a_terminal_or_a_service_manager_leave_workers_alone(
    pool: WorkerPool, source: int
) -> None:
    await pool.run(Digest(digest="sha256", size=SIZE), source)
    before = await everyone(pool)
    await until(lambda: all(ignores(pid, signal.SIGTERM) for pid in before))
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    await asyncio.sleep(0.2)
    await pool.run(Digest(digest="sha256", size=SIZE), source)
    assert pool.pids == before


async def test_workers_see_no_secret_in_their_environment(
    monkeypatch: pytest.MonkeyPatch, source: int
) -> None:
    monkeypatch.setenv("DROPOFF_API_HAWK_SECRET", "sesame")
    monkeypatch.setenv("WEBHOOK_URL", "https://user:sesame@api.example.org/")
    async with WorkerPool(1) as pool:
        await pool.run(Digest(digest="sha256", size=SIZE), source)
        for pid in pool.pids:
            for part in ("environ", "cmdline"):
                assert b"sesame" not in told_by(pid, part)


async def test_a_worker_that_writes_to_directories_loads_nothing_for_s3(
    source: int, store: DestinationSpec
) -> None:
    async with WorkerPool(1) as pool:
        job = Whole(destination=store, target=target_of("x"), seal=PLAIN, digest="sha256")
        await pool.run(job, source)
        (pid,) = pool.pids
        loaded = told_by(pid, "maps")
        assert b"aiohttp" not in loaded
        assert b"_awscrt" in loaded


async def test_an_abort_leaves_nothing(
    pool: WorkerPool, source: int, store: DestinationSpec, tmp_path: Path
) -> None:
    target = target_of("d/x")
    begun = await pool.run(Begin(destination=store, target=target))
    assert isinstance(begun, Begun)
    job = Part(
        destination=store, target=target, reference=begun.reference, seal=PLAIN, span=spans()[0]
    )
    await pool.run(job, source)
    abort = Abort(destination=store, target=target, reference=begun.reference)
    await pool.run(abort)
    await pool.run(abort)
    assert not list((tmp_path / "store/d").iterdir())


ORPHANED = """
import os, socket, subprocess, sys
ours, theirs = socket.socketpair()
ours.sendall(sys.stdin.buffer.read())
late = f'sleep 1; exec "$0" -P -m pipeline.worker {theirs.fileno()}'
subprocess.Popen(["sh", "-c", late, sys.executable], pass_fds=(theirs.fileno(),))
os._exit(0)
"""
"""Asks a worker for something, and dies before that has begun to run."""


def test_a_worker_that_begins_after_its_daemon_died_does_nothing_it_was_asked_for(
    tmp_path: Path,
) -> None:
    """The next daemon may have delivered by then what the first one wanted to be begun."""
    (tmp_path / "0190-upload").mkdir()
    (tmp_path / "0190-upload" / "stored").write_bytes(b"by the next daemon")
    spec = DestinationSpec(name="folder", type="directory", directory=str(tmp_path))
    target = Target(upload="0190-upload", name="0190-upload/stored", size=5)
    asked = msgspec.json.encode(Order(job=JobFrame(1, Begin(destination=spec, target=target))))
    frame = len(asked).to_bytes(4, "big") + asked
    # It ends once the worker has, whose output this is, too.
    subprocess.run(
        [sys.executable, "-c", ORPHANED], input=frame, check=True, timeout=30, capture_output=True
    )
    assert [path.name for path in (tmp_path / "0190-upload").iterdir()] == ["stored"]
