"""A destination that asks to be sent less: what the daemon learns of it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pipeline.channel import Order, order_channel, result_channel
from pipeline.destinations.base import Destination
from pipeline.destinations.directory import DirectoryDestination
from pipeline.errors import DestinationRefusedError, DestinationUnreachableError, of_code
from pipeline.messages import Abort, DestinationSpec, Failed, JobFrame, Target
from pipeline.worker import Destinations, Worker

SPEC = DestinationSpec(name="archive", type="directory", directory="/nowhere")
ABORT = Abort(
    destination=SPEC, target=Target(upload="u", name="u/file", size=1), reference="some-reference"
)


class Busy(DirectoryDestination):
    async def abort(self, target: Target, reference: str) -> None:
        del target, reference
        raise DestinationUnreachableError("slow down", throttled=True, retry_after=7.5)


def busy(spec: DestinationSpec) -> Destination:
    return Busy(spec)


async def test_a_workers_result_says_that_the_destination_throttles() -> None:
    ours, theirs = socket.socketpair()
    channel = order_channel(ours)
    work = asyncio.create_task(Worker(result_channel(theirs), Destinations(busy)).run())
    try:
        await channel.send(Order(job=JobFrame(1, ABORT)))
        received = await channel.receive()
    finally:
        channel.close()
        await work
    assert received is not None
    assert received.message.result == Failed(
        code="destination_unreachable", message="slow down", throttled=True, retry_after=7.5
    )


def test_an_error_made_of_a_result_says_so_too() -> None:
    error = of_code("destination_unreachable", "slow down", throttled=True, retry_after=7.5)
    assert isinstance(error, DestinationUnreachableError)
    assert (error.throttled, error.retry_after, error.message) == (True, 7.5, "slow down")


@pytest.mark.parametrize("code", ["destination_refused", "nobody_knows_this"])
def test_other_codes_make_errors_of_their_own(code: str) -> None:
    error = of_code(code, "no", throttled=True)
    assert not isinstance(error, DestinationUnreachableError)
    assert error.message == "no"
    assert isinstance(error, DestinationRefusedError) == (code == "destination_refused")
