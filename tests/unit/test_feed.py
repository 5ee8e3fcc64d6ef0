"""A body on its way into a request: by a thread where it can go straight to the socket."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from pipeline.destinations.feed import Feed, Senders
from pipeline.errors import SourceChangedError
from pipeline.turns import Waiting
from tests.peers import certificates
from tests.peers.deliveries import BytesBody

MIB = 1024 * 1024
DATA = os.urandom(9 * MIB + 7)
SIZES = (1, 2, MIB, MIB + 1, *[3] * 200)
SILENCE = 1.0

Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ThreadBody(BytesBody):
    """A body that threads can make, and which knows the one that did."""

    def __init__(self, data: bytes = DATA, ends_after: int = len(DATA)) -> None:
        super().__init__(data)
        self._ends_after = ends_after
        self.threads: set[str] = set()
        self.began = threading.Event()

    def pieces(self, waiting: Waiting) -> Iterator[memoryview]:
        del waiting
        for start in range(0, self.size, MIB):
            self.threads.add(threading.current_thread().name)
            self.began.set()
            if start >= self._ends_after:
                raise SourceChangedError("it ends here")
            yield memoryview(DATA)[start : min(start + MIB, self.size)]


class WaitingBody(ThreadBody):
    """One whose second piece isn't in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.was_read = threading.Event(), threading.Event()

    def pieces(self, waiting: Waiting) -> Iterator[memoryview]:
        for number, piece in enumerate(super().pieces(waiting)):
            if number == 1:
                with waiting():
                    self.reads.set()
                    self.was_read.wait(10)
            yield piece


class OverlappingBody(ThreadBody):
    """One that knows how many others were made at the same moment."""

    now = most = 0

    def pieces(self, waiting: Waiting) -> Iterator[memoryview]:
        for piece in super().pieces(waiting):
            OverlappingBody.now += 1
            OverlappingBody.most = max(OverlappingBody.most, OverlappingBody.now)
            time.sleep(0.005)
            OverlappingBody.now -= 1
            yield piece


@pytest.fixture
def senders() -> Iterator[Senders]:
    made = Senders(2, SILENCE)
    yield made
    made.close()


async def head_of(reader: asyncio.StreamReader) -> int:
    """Read a request's head, and give the length of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (line for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    return int(length.split()[1])


@asynccontextmanager
async def answering(
    answers: Answers,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server whose connections are ``answers``', until the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answers(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Taking:
    """A server that takes bodies and says that all is well."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                length = await head_of(reader)
            except asyncio.IncompleteReadError:
                return
            self.bodies.append(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the head, and nothing more."""
    del writer
    await head_of(reader)
    await asyncio.Event().wait()


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers before the body came, and hangs up."""
    await head_of(reader)
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    await writer.drain()
    await asyncio.sleep(0.1)


async def put(session: aiohttp.ClientSession, url: str, feed: Feed) -> int:
    headers = {"Content-Length": str(feed.size)}
    async with session.put(url, data=feed, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_bodies_arrive_whole_over_one_connection_from_a_thread(
    senders: Senders,
) -> None:
    bodies = [ThreadBody(), ThreadBody(b"", 0), *(ThreadBody(DATA[:size]) for size in SIZES)]
    server = Taking()
    async with answering(server) as url, aiohttp.ClientSession() as session:
        for body in bodies:
            assert await put(session, url, Feed(body, senders)) == 200
    assert server.bodies == [DATA, b"", *(DATA[:size] for size in SIZES)]
    assert server.connections == 1
    assert all(name.startswith("send") for body in bodies for name in body.threads)
    assert bodies[0].threads


async def test_a_body_through_tls_goes_by_the_loop(senders: Senders, tmp_path: Path) -> None:
    certificate, key = certificates.self_signed(tmp_path)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    ours = ssl.create_default_context(cafile=str(certificate))
    server, body = Taking(), ThreadBody()
    connector = aiohttp.TCPConnector(ssl=ours)
    async with (
        answering(server, theirs) as url,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        assert await put(session, url, Feed(body, senders)) == 200
    assert server.bodies == [DATA]
    assert body.threads == set()


async def test_a_body_that_no_thread_can_make_goes_by_the_loop(
    senders: Senders,
) -> None:
    server = Taking()
    async with answering(server) as url, aiohttp.ClientSession() as session:
        assert await put(session, url, Feed(BytesBody(DATA), senders)) == 200
    assert server.bodies == [DATA]


async def test_a_server_that_takes_nothing_is_given_up(senders: Senders) -> None:
    async with answering(stalling) as url, aiohttp.ClientSession() as session:
        async with asyncio.timeout(SILENCE + 5):
            with pytest.raises(TimeoutError):
                await put(session, url, Feed(ThreadBody(), senders))


async def test_a_cancelled_request_ends_its_thread_at_once() -> None:
    only_one = Senders(1, 600.0)
    server = Taking()
    async with (
        answering(stalling) as stalls,
        answering(server) as url,
        aiohttp.ClientSession() as session,
    ):
        body = ThreadBody()
        request = asyncio.create_task(put(session, stalls, Feed(body, only_one)))
        await asyncio.to_thread(body.began.wait)
        request.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await request
            assert await put(session, url, Feed(ThreadBody(), only_one)) == 200
    only_one.close()


async def test_who_waits_for_a_server_holds_up_no_other() -> None:
    patient = 4 * SILENCE
    senders = Senders(2, patient)
    server, stalled = Taking(), ThreadBody()
    async with (
        answering(stalling) as stalls,
        answering(server) as url,
        aiohttp.ClientSession() as session,
    ):
        waits = asyncio.create_task(put(session, stalls, Feed(stalled, senders)))
        await asyncio.to_thread(stalled.began.wait)
        async with asyncio.timeout(patient / 2):
            assert await put(session, url, Feed(ThreadBody(), senders)) == 200
        assert not waits.done()
        with pytest.raises(TimeoutError):
            await waits
    senders.close()


async def test_who_waits_for_a_disk_holds_up_no_other(senders: Senders) -> None:
    server, waits = Taking(), WaitingBody()
    async with answering(server) as url, aiohttp.ClientSession() as session:
        request = asyncio.create_task(put(session, url, Feed(waits, senders)))
        async with asyncio.timeout(5):
            await asyncio.to_thread(waits.reads.wait)
            assert await put(session, url, Feed(ThreadBody(), senders)) == 200
            assert not request.done()
            waits.was_read.set()
            assert await request == 200
    assert server.bodies == [DATA, DATA]


async def test_of_bodies_that_go_out_at_once_one_at_a_time_is_made(senders: Senders) -> None:
    server = Taking()
    bodies = [OverlappingBody() for _ in range(4)]
    async with answering(server) as url, aiohttp.ClientSession() as session:
        await asyncio.gather(*(put(session, url, Feed(body, senders)) for body in bodies))
    assert server.bodies == [DATA] * 4
    assert OverlappingBody.most == 1


async def test_an_answer_before_the_body_s_end_is_heard(senders: Senders) -> None:
    async with answering(refusing) as url, aiohttp.ClientSession() as session:
        assert await put(session, url, Feed(ThreadBody(), senders)) == 403


async def test_a_body_that_breaks_off_says_why_and_its_connection_is_used_no_more(
    senders: Senders,
) -> None:
    server = Taking()
    async with answering(server) as url, aiohttp.ClientSession() as session:
        feed = Feed(ThreadBody(ends_after=2 * MIB), senders)
        with pytest.raises(aiohttp.ClientError):
            await put(session, url, feed)
        assert isinstance(feed.error, SourceChangedError)
        assert await put(session, url, Feed(ThreadBody(), senders)) == 200
    assert server.bodies == [DATA]
