"""The process that moves bytes: jobs in, results out, nothing remembered.

``python -m pipeline.worker FD [TIMETABLE]`` speaks on the Unix socket ``FD`` until its other end is
gone, and then ends at once, whatever is under way: every job is safe to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Final, NoReturn

import msgspec

from pipeline import jobs, libc, throttling
from pipeline.buffers import Buffers
from pipeline.channel import Channel, ChannelError, Order, result_channel
from pipeline.crashpoints import CrashPoints
from pipeline.destinations import open_destination
from pipeline.destinations.base import Destination
from pipeline.errors import DestinationUnreachableError, DropoffError, WorkerLostError
from pipeline.hardening import keep_to_ourselves
from pipeline.messages import (
    Abort,
    Begin,
    Compare,
    DestinationSpec,
    Digest,
    Digested,
    Failed,
    Finish,
    Job,
    JobFrame,
    Part,
    PartStored,
    Result,
    ResultFrame,
    Whole,
    WholeStored,
)
from pipeline.pacing import PacedDestination, Timetable
from pipeline.source import Source

IDLE_DESTINATIONS: Final = 16
"""Storages that are kept open without a job."""
CLOSING: Final = 1.0
"""Seconds to say goodbye to storages before the process ends."""
IDLE_AFTER: Final = 1.0
"""Seconds without a job after which free memory goes back to the system."""
GARBAGE: Final = (20_000, 20, 50)
"""When Python looks for cycles: hardly anything here refers to itself, and all is looked through
once there is no job."""
_PR_SET_PDEATHSIG: Final = 1


class Destinations:
    """The open storages, one for each description, shared by the jobs that use it."""

    def __init__(
        self,
        opener: Callable[[DestinationSpec], Destination] = open_destination,
        idle: int = IDLE_DESTINATIONS,
        points: CrashPoints | None = None,
    ) -> None:
        self._opener = opener
        self._idle = idle
        self._points = points or CrashPoints({})
        self._open: dict[DestinationSpec, Destination] = {}
        self._users: dict[DestinationSpec, int] = {}

    @contextlib.asynccontextmanager
    async def use(self, spec: DestinationSpec) -> AsyncIterator[Destination]:
        """The storage, open at least for as long as it is used."""
        destination = self._open.pop(spec, None) or self._opener(spec)
        self._open[spec] = destination  # the last one used stands last
        self._users[spec] = self._users.get(spec, 0) + 1
        try:
            yield self._points.watched(destination, "destination")
        finally:
            self._users[spec] -= 1
            await self._close_idle()

    async def aclose(self) -> None:
        """Close all of them."""
        while self._open:
            _, destination = self._open.popitem()
            await destination.aclose()

    async def _close_idle(self) -> None:
        idle = [spec for spec in self._open if not self._users[spec]]
        for spec in idle[: max(0, len(idle) - self._idle)]:
            del self._users[spec]
            await self._open.pop(spec).aclose()


class Worker:
    """Takes jobs from a channel and does them side by side, until the channel ends."""

    def __init__(
        self,
        channel: Channel[ResultFrame, Order],
        destinations: Destinations,
        timetable: Timetable | None = None,
    ) -> None:
        """Without a ``timetable`` jobs are done as fast as they go."""
        self._channel = channel
        self._timetable = timetable
        self._destinations = destinations
        self._buffers = Buffers()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tidying: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Work until the daemon is gone; what is under way then is cancelled."""
        try:
            while (received := await self._channel.receive()) is not None:
                order, fd = received
                if order.cancel is not None and order.cancel.id in self._running:
                    self._running[order.cancel.id].cancel()
                if order.job is not None:
                    self._start(order.job, fd)
                    await asyncio.sleep(0)  # it holds the descriptor before it can be cancelled
                elif fd is not None:
                    os.close(fd)
        except ChannelError as error:
            _complain(f"channel: {error}")
        await self._end()

    def _start(self, frame: JobFrame, fd: int | None) -> None:
        task = asyncio.create_task(self._work(frame, fd))
        self._running[frame.id] = task
        task.add_done_callback(lambda _: self._finished(frame.id))

    def _finished(self, number: int) -> None:
        del self._running[number]
        if self._tidying is not None:
            self._tidying.cancel()
        self._tidying = asyncio.get_running_loop().call_later(IDLE_AFTER, self._tidy)

    def _tidy(self) -> None:
        if not self._running:
            self._buffers.clear()
            gc.collect()
            libc.call("malloc_trim", 0)

    async def _work(self, frame: JobFrame, fd: int | None) -> None:
        """Do one job and send its result, which there is in any case."""
        try:
            result = await self._result(frame.job, fd)
        except asyncio.CancelledError:
            result = Failed(code=WorkerLostError.code, message="the job was cancelled")
        except DropoffError as error:
            result = _failed(error)
        except Exception as error:  # noqa: BLE001  # one job's surprise is not the others'
            _complain(traceback.format_exc())
            result = Failed(
                code=DropoffError.code, message=f"unexpected {type(error).__name__} in a worker"
            )
        with contextlib.suppress(ChannelError):
            await self._channel.send(ResultFrame(frame.id, result))

    async def _result(self, job: Job, fd: int | None) -> Result:
        with contextlib.ExitStack() as stack:
            source = None if fd is None else stack.enter_context(Source(fd))
            if isinstance(job, Begin | Finish | Abort):
                async with self._destinations.use(job.destination) as destination:
                    return await jobs.control(job, destination)
            if source is None:
                raise WorkerLostError("the job came without its source")
            if isinstance(job, Compare):
                return await jobs.compare(job, source)
            if isinstance(job, Digest):
                return Digested(digest=await jobs.plaintext_digest(source, job.digest, job.size))
            async with self._destinations.use(job.destination) as destination:
                with throttling.noting() as notes:
                    paced = self._paced(job, destination)
                    result = await jobs.send(job, paced, source, self._buffers)
        if notes.throttled and isinstance(result, PartStored | WholeStored):
            return msgspec.structs.replace(result, throttled=True)
        return result

    def _paced(self, job: jobs.SendingJob, destination: Destination) -> Destination:
        pace = job.pace if isinstance(job, Part | Whole) else None
        if pace is None or self._timetable is None:
            return destination
        return PacedDestination(destination, self._timetable, pace)

    async def _end(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                if running:
                    await asyncio.wait(running)
                await self._destinations.aclose()
        self._channel.close()


def _failed(error: DropoffError) -> Failed:
    if isinstance(error, DestinationUnreachableError):
        return Failed(
            code=error.code,
            message=error.message,
            throttled=error.throttled,
            retry_after=error.retry_after,
        )
    return Failed(code=error.code, message=error.message)


def _complain(text: str) -> None:
    """One line to stderr, which is the daemon's."""
    sys.stderr.write(f"worker {os.getpid()}: {text.strip()!r}\n")
    sys.stderr.flush()


def _die_with_parent() -> None:
    """Have the kernel end this process with the daemon, should the channel's end not do."""
    libc.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


async def _serve(sock: socket.socket, timetable: Timetable | None) -> NoReturn:
    destinations = Destinations(points=CrashPoints(os.environ))
    await Worker(result_channel(sock), destinations, timetable).run()
    # Not by way of waiting for threads, which may hang in a dead file system.
    os._exit(0)


def main() -> NoReturn:
    """Work on the socket whose descriptor is the first argument. Never returns.

    The second one is the descriptor of what :class:`pipeline.pacing.Timetable` shares.
    """
    # A terminal's Ctrl-C and a service's stop reach all processes; the daemon decides here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    keep_to_ourselves()
    gc.freeze()  # what was imported stays for good
    gc.set_threshold(*GARBAGE)
    try:
        timetable = Timetable(int(sys.argv[2])) if len(sys.argv) > 2 else None  # noqa: PLR2004  # the one that may be missing
        sock = socket.socket(fileno=int(sys.argv[1]))
        # The daemon made the socket. It may have died before we asked to die with it, and what it
        # wanted is the next one's to do by now.
        if os.getppid() != libc.peer_of(sock).pid:
            os._exit(0)
        asyncio.run(_serve(sock, timetable))
    finally:
        _complain(traceback.format_exc())
        os._exit(1)


if __name__ == "__main__":
    main()
