"""The pipeline's processes: started, given jobs, and started again when they end.

A worker holds nothing that matters. When one dies, its jobs raise WorkerLostError and are safe to
repeat; a new one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

import pipeline
from pipeline.channel import Cancel, Channel, ChannelError, Order, order_channel
from pipeline.errors import WorkerLostError, of_code
from pipeline.messages import Compare, Digest, Failed, Job, JobFrame, Result, ResultFrame
from pipeline.pacing import make_timetable

PARTS_EACH: Final = 2
"""Jobs that one worker does well at once: one waits for the network while the other seals."""
END_TIMEOUT: Final = 5.0
"""Seconds that a worker has to end by itself once its channel is closed."""
CANCEL_TIMEOUT: Final = 30.0
"""Seconds that a cancelled job has to end; after them its worker is killed."""
HEALTHY_AFTER: Final = 10.0
"""Seconds; one that ends sooner is started again only after a pause."""
LONGEST_PAUSE: Final = 30.0
SENDING_NICENESS: Final = 10
"""Above ours: what sends could use a core for never makes a client wait, who asks pre-create and
the tus server for an answer; nor a digest, which takes longer than all parts together. Each part
is a thread's, and the kernel counts these one by one."""
READING_NICENESS: Final = 1

_SECRET: Final = ("DROPOFF_", "WEBHOOK_URL", "CREDENTIALS_DIRECTORY")


class WorkerPool:
    """See :class:`daemon.ports.Workers`. Use it as a context manager, or start and aclose it.

    One more process reads: it takes digests, which have to go through a file from its start and so
    are the longest way there is. No part shares its interpreter, and none has its priority. It is
    started when it is needed first.
    """

    def __init__(self, workers: int, *, complain: Callable[[str], object] | None = None) -> None:
        """A pool of ``workers`` processes that send, at least 1.

        ``complain`` is told of each process that is lost; without it, the log is.
        """
        complain = complain or logging.getLogger(__name__).error
        self._senders = _Crew(workers, SENDING_NICENESS, complain)
        self._readers = _Crew(1, READING_NICENESS, complain)
        self._timetable = -1
        """What all workers share to keep to a destination's rate together."""

    @property
    def slots(self) -> int:
        """How many parts can make good use of the machine at once."""
        return self._senders.count * PARTS_EACH

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that take jobs now."""
        return self._senders.pids + self._readers.pids

    @property
    def reading_pids(self) -> tuple[int, ...]:
        """Of those of them that read for digests."""
        return self._readers.pids

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End all processes."""
        await self.aclose()

    async def start(self) -> None:
        """Start the processes. Jobs can be given at once and wait for the first that is ready."""
        self._timetable = make_timetable()
        self._senders.start(self._timetable)

    async def aclose(self) -> None:
        """End all processes; whatever they do raises WorkerLostError."""
        await asyncio.gather(self._senders.aclose(), self._readers.aclose())
        if self._timetable >= 0:
            os.close(self._timetable)
            self._timetable = -1

    async def run(self, job: Job, source: int | None = None) -> Result:
        """See :meth:`daemon.ports.Workers.run`."""
        crew = self._senders
        if isinstance(job, Digest | Compare):
            crew = self._readers
            crew.start(self._timetable)
        result = await (await crew.least_loaded()).do(job, source)
        if isinstance(result, Failed):
            raise of_code(
                result.code,
                result.message,
                throttled=result.throttled,
                retry_after=result.retry_after,
            )
        return result


class _Crew:
    """Processes of one kind, each started again when it ends."""

    def __init__(self, count: int, niceness: int, complain: Callable[[str], object]) -> None:
        self.count = count
        self._niceness = niceness
        self._complain = complain
        self._ready: list[_Worker] = []
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> tuple[int, ...]:
        """Of those that take jobs now."""
        return tuple(worker.pid for worker in self._ready)

    def start(self, timetable: int) -> None:
        """Start them, unless that was done or they are being ended."""
        if self._keepers or self._closing.is_set():
            return
        self._keepers = [
            asyncio.create_task(self._keep(timetable), name=f"worker {number}")
            for number in range(self.count)
        ]

    async def aclose(self) -> None:
        """End them."""
        self._closing.set()
        for worker in self._ready:
            worker.close()
        async with self._changed:
            self._changed.notify_all()
        await asyncio.gather(*self._keepers)

    async def least_loaded(self) -> _Worker:
        """Who should take the next job. Raises WorkerLostError while they are being ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready or self._closing.is_set())
        if self._closing.is_set():
            raise WorkerLostError("the workers are being stopped")
        return min(self._ready, key=lambda worker: worker.load)

    async def _keep(self, timetable: int) -> None:
        """Have one worker running until the crew is ended."""
        deaths = 0
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                how = await self._run_one(timetable)
            except OSError as error:
                how = f"a worker can't be started: {error.strerror}"
            if self._closing.is_set():
                return
            self._complain(how)
            deaths = deaths + 1 if time.monotonic() - started < HEALTHY_AFTER else 0
            if deaths:
                pause = min(LONGEST_PAUSE, 0.125 * 2**deaths)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)

    async def _run_one(self, timetable: int) -> str:
        """Start a worker, hand it jobs until it ends, and tell how it did."""
        worker = await _Worker.start(timetable, self._niceness)
        try:
            self._ready.append(worker)
            async with self._changed:
                self._changed.notify_all()
            if self._closing.is_set():
                worker.close()
            await worker.listen()
        finally:
            self._ready.remove(worker)
            status = await worker.end()
        return f"worker {worker.pid} ended with {status}; its jobs are done by others"


class _Worker:
    """One running process."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel[Order, ResultFrame]
    ) -> None:
        self._process = process
        self._channel = channel
        self._numbers = itertools.count(1)
        self._results: dict[int, asyncio.Future[Result]] = {}
        self.load = 0
        self.pid = process.pid

    @classmethod
    async def start(cls, timetable: int, niceness: int) -> _Worker:
        """A new process, which has nothing but its end of a socket, and the ``timetable``.

        ``niceness`` is added to ours.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # nothing is imported from whatever directory this happens to be in
                    "-m",
                    "pipeline.worker",
                    str(theirs.fileno()),
                    str(timetable),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), timetable),
                    env=_environment(os.environ),
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        _make_nice(process.pid, niceness)
        return cls(process, order_channel(ours))

    async def do(self, job: Job, source: int | None) -> Result:
        """Have a job done. Raises WorkerLostError where the process ends first."""
        number = next(self._numbers)
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._results[number] = result
        self.load += 1
        try:
            await self._channel.send(Order(job=JobFrame(number, job)), source)
            await asyncio.wait([result])
            return result.result()
        except ChannelError as error:
            raise WorkerLostError("the worker ended before it took the job") from error
        except asyncio.CancelledError:
            await self._call_off(number, result)
            raise
        finally:
            self.load -= 1
            self._results.pop(number, None)

    async def listen(self) -> None:
        """Take results until the process is gone or the channel closed."""
        try:
            while (received := await self._channel.receive()) is not None:
                waiting = self._results.get(received.message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(received.message.result)
        except ChannelError as error:
            self._lose(f"the worker says what can't be understood: {error}")
        finally:
            self._lose("the worker process ended")

    def close(self) -> None:
        """Tell the process to end."""
        self._channel.close()

    async def end(self) -> int:
        """See the process ended, by force if need be, and give its exit status."""
        self._channel.close()
        try:
            async with asyncio.timeout(END_TIMEOUT):
                return await self._process.wait()
        except TimeoutError:
            self._kill()
            return await self._process.wait()

    async def _call_off(self, number: int, result: asyncio.Future[Result]) -> None:
        """Cancel a job and wait until it is over: it must not write behind our back."""
        with contextlib.suppress(ChannelError):
            await self._channel.send(Order(cancel=Cancel(number)))
        done, _ = await asyncio.wait([result], timeout=CANCEL_TIMEOUT)
        if not done:
            self._kill()
        elif not result.cancelled():
            result.exception()

    def _lose(self, reason: str) -> None:
        for waiting in self._results.values():
            if not waiting.done():
                waiting.set_exception(WorkerLostError(reason))

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _make_nice(pid: int, niceness: int) -> None:
    # One that is starting has one thread, and all others come from it. A sandbox may forbid this:
    # then workers have the daemon's own niceness.
    with contextlib.suppress(OSError):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, pid, min(19, own + niceness))


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment without its secrets, and with the way to this very package."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_SECRET)}
    here = str(Path(pipeline.__file__).parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [here, ours.get("PYTHONPATH", "")]))
    return kept
