"""How the daemon and a worker talk: JSON frames on a Unix stream socket, descriptors beside them.

A frame is four bytes of length, whose highest bit says that a descriptor comes with it, and the
payload. Nothing waits in the kernel's way: a sender is held up while the other side reads nothing,
and a reader takes a frame only when it is asked for.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections import deque
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from pipeline.messages import JobFrame, ResultFrame

MAX_FRAME: Final = 16 * 1024 * 1024
"""Ten thousand parts to finish with are 1 MiB."""
HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait to be sent before a sender waits."""

_LENGTH: Final = struct.Struct(">I")
_WITH_DESCRIPTOR: Final = 0x8000_0000
_READ: Final = 64 * 1024
_DESCRIPTORS: Final = 16
_ANCILLARY: Final = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)

Sent = TypeVar("Sent", bound=msgspec.Struct)
Taken = TypeVar("Taken", bound=msgspec.Struct)


class ChannelError(Exception):
    """The other side is gone, or what it says is no frame of ours. The channel is over."""


class Cancel(msgspec.Struct, frozen=True):
    """End a job. It still gets its result, whatever that is by then."""

    id: int


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemon sends: one of the two."""

    job: JobFrame | None = None
    cancel: Cancel | None = None


class Received(NamedTuple, Generic[Taken]):
    """A frame as it came in."""

    message: Taken
    fd: int | None
    """Belongs to whoever takes the frame."""


class _Waiting(NamedTuple):
    data: memoryview
    fd: int


class Channel(Generic[Sent, Taken]):
    """One end. Use it in one event loop; any number may send, one may receive."""

    def __init__(self, sock: socket.socket, takes: type[Taken]) -> None:
        """Take over ``sock``, a connected Unix stream socket."""
        sock.settimeout(0)
        self._socket = sock
        self._fd = sock.fileno()  # of a socket itself, selectors make a text each time
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(takes)
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._senders: set[asyncio.Future[None]] = set()
        self._receiver: asyncio.Future[None] | None = None
        self._bytes = bytearray()
        self._fds: deque[int] = deque()
        self._writing = False
        self._closed = False
        self._broken = False

    async def send(self, message: Sent, fd: int | None = None) -> None:
        """Send a frame, with a copy of the descriptor ``fd``; the original stays the caller's.

        Returns once little enough waits to be sent. Cancelling doesn't take the frame back.
        Raises ChannelError where the other side is gone, ValueError for a frame that is too long.
        """
        self._check_open()
        payload = self._encoder.encode(message)
        if len(payload) > MAX_FRAME:
            raise ValueError(f"a frame of {len(payload)} bytes is too long")
        mark = 0 if fd is None else _WITH_DESCRIPTOR
        data = memoryview(_LENGTH.pack(len(payload) | mark) + payload)
        self._queue.append(_Waiting(data, -1 if fd is None else os.dup(fd)))
        self._queued += len(data)
        if not self._writing:
            self._flush()
        while self._queued > HIGH_WATER:
            await self._wait_to_send()
        self._check_open()

    async def receive(self) -> Received[Taken] | None:
        """The next frame; None once the other side is gone, or this one is closed.

        Raises ChannelError for what is no frame.
        """
        while True:
            frame = self._next_frame()
            if frame is not None:
                return frame
            if self._closed:
                return None
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _READ, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await self._wait_to_receive()
            except OSError:
                return None
            else:
                self._fds.extend(_descriptors(ancillary))
                if flags & socket.MSG_CTRUNC:
                    # From here on a frame might get the descriptor of another one.
                    raise ChannelError("a descriptor was lost: too many open files")
                if not data:
                    return None
                self._bytes += data

    def close(self) -> None:
        """End the channel at once; what waits to be sent, and who waits for it, is let go."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._socket.close()
        self._forget_queue()
        while self._fds:
            _close(self._fds.popleft())
        self._wake_senders()
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _next_frame(self) -> Received[Taken] | None:
        if self._closed or len(self._bytes) < _LENGTH.size:
            return None
        (head,) = _LENGTH.unpack_from(self._bytes)
        length = head & ~_WITH_DESCRIPTOR
        if length > MAX_FRAME:
            raise ChannelError(f"a frame of {length} bytes is too long")
        end = _LENGTH.size + length
        if len(self._bytes) < end:
            return None
        payload = bytes(self._bytes[_LENGTH.size : end])
        del self._bytes[:end]
        fd = None
        if head & _WITH_DESCRIPTOR:
            if not self._fds:
                raise ChannelError("a frame came without its descriptor")
            fd = self._fds.popleft()
        try:
            return Received(self._decoder.decode(payload), fd)
        except msgspec.MsgspecError as error:
            if fd is not None:
                _close(fd)
            raise ChannelError(f"not a message: {error}") from error

    def _flush(self) -> None:
        """Send what the socket takes, and come back when it takes more."""
        try:
            while self._queue:
                data, fd = self._queue[0]
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                count = self._socket.sendmsg([data], passed if fd >= 0 else [])
                _close(fd)  # it goes with the first byte
                self._queued -= count
                if count == len(data):
                    self._queue.popleft()
                else:
                    self._queue[0] = _Waiting(data[count:], -1)
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
        except OSError:
            self._break()
            return
        else:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
        if self._queued <= HIGH_WATER:
            self._wake_senders()

    def _break(self) -> None:
        """The other side reads no more. What it said before can still be received."""
        self._broken = True
        self._loop.remove_writer(self._fd)
        self._forget_queue()
        self._wake_senders()

    def _forget_queue(self) -> None:
        while self._queue:
            _close(self._queue.popleft().fd)
        self._queued = 0

    def _check_open(self) -> None:
        if self._closed or self._broken:
            raise ChannelError("the other side is gone")

    def _wake_senders(self) -> None:
        for waiting in self._senders:
            if not waiting.done():
                waiting.set_result(None)

    async def _wait_to_send(self) -> None:
        future = self._loop.create_future()
        self._senders.add(future)
        try:
            await future
        finally:
            self._senders.discard(future)

    async def _wait_to_receive(self) -> None:
        future = self._receiver = self._loop.create_future()
        self._loop.add_reader(self._fd, _resolve, future)
        try:
            await future
        finally:
            self._receiver = None
            if not self._closed:
                self._loop.remove_reader(self._fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def order_channel(sock: socket.socket) -> Channel[Order, ResultFrame]:
    """The daemon's end."""
    return Channel(sock, ResultFrame)


def result_channel(sock: socket.socket) -> Channel[ResultFrame, Order]:
    """A worker's end."""
    return Channel(sock, Order)
