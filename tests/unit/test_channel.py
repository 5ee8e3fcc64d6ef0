"""The channel between the daemon and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pipeline.channel import (
    MAX_FRAME,
    Cancel,
    Channel,
    ChannelError,
    Order,
    order_channel,
    result_channel,
)
from pipeline.messages import Digest, Digested, Failed, JobFrame, ResultFrame

Ends = tuple[Channel[Order, ResultFrame], Channel[ResultFrame, Order]]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    daemon, worker = socket.socketpair()
    channels = (order_channel(daemon), result_channel(worker))
    yield channels
    for channel in channels:
        channel.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def digest_order(number: int) -> Order:
    return Order(job=JobFrame(number, Digest(digest="sha256", size=number)))


async def test_messages_arrive_as_they_were_sent(ends: Ends) -> None:
    daemon, worker = ends
    await daemon.send(digest_order(1))
    await daemon.send(Order(cancel=Cancel(1)))
    first, second = await worker.receive(), await worker.receive()
    assert first is not None
    assert second is not None
    assert (first.message, first.fd) == (digest_order(1), None)
    assert second.message == Order(cancel=Cancel(1))
    result = ResultFrame(1, Failed(code="internal", message="ü" * 100))
    await worker.send(result)
    answer = await daemon.receive()
    assert answer is not None
    assert answer.message == result


async def test_each_frame_gets_its_own_descriptor_under_load(ends: Ends, tmp_path: Path) -> None:
    daemon, worker = ends
    before = descriptors()
    count = 300

    async def send() -> None:
        for number in range(count):
            path = tmp_path / str(number)
            path.write_text(str(number))
            with path.open() as file:
                with_fd = number % 3 > 0
                await daemon.send(digest_order(number), file.fileno() if with_fd else None)

    async def receive() -> None:
        for number in range(count):
            received = await worker.receive()
            assert received is not None
            assert received.message == digest_order(number)
            if number % 3 == 0:
                assert received.fd is None
            else:
                assert received.fd is not None
                with os.fdopen(received.fd) as file:
                    assert file.read() == str(number)

    await asyncio.gather(send(), receive())
    assert descriptors() == before


async def test_a_long_frame_goes_through_in_pieces(ends: Ends) -> None:
    daemon, worker = ends
    long = ResultFrame(7, Failed(code="internal", message="x" * (MAX_FRAME - 1000)))
    sending = asyncio.create_task(worker.send(long))
    answer = await daemon.receive()
    await sending
    assert answer is not None
    assert answer.message == long


async def test_a_frame_over_the_limit_is_not_sent(ends: Ends) -> None:
    daemon, worker = ends
    with pytest.raises(ValueError, match="too long"):
        await worker.send(ResultFrame(7, Failed(code="internal", message="x" * MAX_FRAME)))
    await worker.send(ResultFrame(8, Digested(digest="aa")))
    answer = await daemon.receive()
    assert answer is not None
    assert answer.message.id == 8


async def test_a_sender_waits_while_nobody_reads(ends: Ends) -> None:
    daemon, worker = ends
    big = ResultFrame(1, Failed(code="internal", message="x" * 100_000))

    async def send_all() -> None:
        for _ in range(40):
            await worker.send(big)

    sending = asyncio.create_task(send_all())
    await asyncio.sleep(0.1)
    assert not sending.done()
    assert worker._queued < 1_000_000
    for _ in range(40):
        assert await daemon.receive() is not None
    await asyncio.wait_for(sending, 5)


async def test_a_cancelled_sender_tears_no_frame(ends: Ends) -> None:
    daemon, worker = ends
    big = ResultFrame(1, Failed(code="internal", message="x" * 3_000_000))
    sending = asyncio.create_task(worker.send(big))
    await asyncio.sleep(0.02)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    waiting = asyncio.create_task(worker.send(ResultFrame(2, Digested(digest="aa"))))
    ids = []
    for _ in range(2):
        received = await daemon.receive()
        assert received is not None
        ids.append(received.message.id)
    await waiting
    assert ids == [1, 2]


async def test_the_end_of_the_other_side_is_noticed_while_waiting(ends: Ends) -> None:
    daemon, worker = ends
    waiting = asyncio.create_task(worker.receive())
    await asyncio.sleep(0.01)
    daemon.close()
    assert await asyncio.wait_for(waiting, 5) is None
    with contextlib.suppress(ChannelError):
        await worker.send(ResultFrame(1, Digested(digest="")))
    with pytest.raises(ChannelError):
        await worker.send(ResultFrame(2, Digested(digest="")))


async def test_closing_ends_who_waits_on_this_side(ends: Ends) -> None:
    daemon, _ = ends
    waiting = asyncio.create_task(daemon.receive())
    await asyncio.sleep(0.01)
    daemon.close()
    assert await asyncio.wait_for(waiting, 5) is None
    with pytest.raises(ChannelError):
        await daemon.send(digest_order(1))


async def test_a_blocked_sender_learns_that_the_other_side_is_gone(ends: Ends) -> None:
    daemon, worker = ends
    sending = asyncio.create_task(
        worker.send(ResultFrame(1, Failed(code="internal", message="x" * 3_000_000)))
    )
    await asyncio.sleep(0.02)
    daemon.close()
    with pytest.raises(ChannelError):
        await asyncio.wait_for(sending, 5)


@pytest.mark.parametrize("closes", ["sender", "receiver"])
async def test_no_descriptor_is_left_when_one_side_closes_in_between(
    closes: str, tmp_path: Path
) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    daemon, worker = order_channel(ours), result_channel(theirs)
    (tmp_path / "data").write_bytes(b"x")
    with (tmp_path / "data").open() as file:
        tasks = [
            asyncio.create_task(daemon.send(digest_order(number), file.fileno()))
            for number in range(3000)
        ]
        await asyncio.sleep(0.05)
        received = await worker.receive()
        assert received is not None
        assert received.fd is not None
        os.close(received.fd)
        (daemon if closes == "sender" else worker).close()
        with contextlib.suppress(ChannelError):
            await asyncio.wait_for(daemon.send(digest_order(1), file.fileno()), 5)
        await asyncio.wait(tasks, timeout=5)
        for task in tasks:
            assert task.done()
            task.exception()
    daemon.close()
    worker.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x02{]", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x02{}", b"\x00\x00\x00\x00"]
)
async def test_what_is_no_frame_ends_the_channel(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    worker = result_channel(theirs)
    with ours:
        ours.sendall(data)
        with pytest.raises(ChannelError):
            await worker.receive()
    worker.close()


async def test_a_frame_cut_short_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    worker = result_channel(theirs)
    payload = msgspec.json.encode(digest_order(1))
    ours.sendall(len(payload).to_bytes(4, "big") + payload[:-1])
    ours.close()
    assert await worker.receive() is None
    worker.close()
