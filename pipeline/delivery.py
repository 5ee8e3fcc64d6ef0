"""How a part's sealed bytes come about, and what is counted on the way."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import NamedTuple

from awscrt.checksums import combine_crc64nvme, crc64nvme

from pipeline.buffers import Buffers, Room
from pipeline.digests import Hasher, hasher
from pipeline.envelope import SEGMENT, by_format
from pipeline.messages import DigestName, Seal, Span, StoredPart
from pipeline.parts import CHUNK, place
from pipeline.source import Source
from pipeline.turns import Waiting


def combined_crc(parts: Iterable[StoredPart]) -> int:
    """The CRC-64/NVME of the object that ``parts`` make up, given in their order."""
    crc = 0
    for part in parts:
        crc = combine_crc64nvme(crc, part.crc64nvme, part.size)
    return crc


class _Read(NamedTuple):
    """Plaintext that is needed to go on: the step after this one takes it as read."""

    into: memoryview
    offset: int


class SealedBody:
    """A part's sealed bytes, made while they are asked for; see :class:`destinations.base.Body`.

    Reads, seals and gives 1 MiB at a time, in the thread of whoever asks: that is cheaper than to
    hand each of them over to another one. One :class:`~pipeline.buffers.Room` is all it holds.
    """

    def __init__(
        self,
        source: Source,
        seal: Seal,
        span: Span,
        *,
        digest: DigestName | None = None,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        """``at_end`` is called once all was read, before the last bytes are given; may raise."""
        self._source = source
        self._seal = seal
        self._span = span
        self._digest_name = digest
        self._at_end = at_end
        self._buffers = Buffers()
        self._room: Room | None = None
        self._wants_md5 = False
        self._crc = 0
        self._md5: bytes | None = None
        self._digest = ""
        self.place = place(seal, span)

    @property
    def size(self) -> int:
        """Bytes that one iteration gives."""
        return self.place.size

    @property
    def crc64nvme(self) -> int:
        """Of all bytes that the last whole iteration gave."""
        return self._crc

    @property
    def md5(self) -> bytes | None:
        """Likewise; None unless asked for before."""
        return self._md5

    @property
    def plaintext_digest(self) -> str:
        """Of the plaintext, hex, once an iteration has ended; empty unless asked for."""
        return self._digest

    def with_md5(self) -> None:
        """Count an MD5 from the next iteration on."""
        self._wants_md5 = True

    def borrow(self, buffers: Buffers) -> None:
        """Take the next iteration's room from there; :meth:`release` gives it back."""
        self._buffers = buffers

    async def count(self) -> None:
        """Seal all of it once, and give nothing."""
        async for _ in self:
            pass
        self.release()

    def release(self) -> None:
        """Whoever took the last whole iteration has no use for its views any more.

        Not to be called where a request failed: what is left of it may still be on its way.
        """
        if self._room is not None:
            self._buffers.give(self._room)
            self._room = None

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        """The bytes from their start."""
        for step in self._checked(2):
            if isinstance(step, _Read):
                await self._source.read_into(step.into, step.offset)
            else:
                yield step

    def pieces(self, waiting: Waiting) -> Iterator[memoryview]:
        """See :class:`destinations.base.Blocking`."""
        for step in self._checked(1, waiting):
            if isinstance(step, _Read):
                self._source.read_into_blocking(step.into, step.offset, waiting)
            else:
                yield step

    def _checked(
        self, held: int, waiting: Waiting = contextlib.nullcontext
    ) -> Iterator[_Read | memoryview]:
        """The bytes as they are made, and what is counted on the way.

        ``held`` views are valid at once, 1 or 2: the fewer, the more stays in the CPU's cache.
        """
        md5 = hashlib.md5(usedforsecurity=False) if self._wants_md5 else None
        plaintext = hasher(self._digest_name) if self._digest_name else None
        crc = size = 0

        def note() -> None:
            self._crc = crc
            self._md5 = md5.digest() if md5 else None
            self._digest = plaintext.hexdigest() if plaintext else ""

        for step in self._sealed(plaintext, held):
            if isinstance(step, _Read):
                yield step
                continue
            crc = crc64nvme(step, crc)
            size += len(step)
            if md5 is not None:
                md5.update(step)
            if size == self.size:
                with waiting():  # it asks the disk
                    self._at_end()
                note()  # before the last bytes leave: who sends them may never ask for more
            yield step
        if size != self.size:
            raise AssertionError(f"sealed to {size} bytes instead of {self.size}")
        note()

    def _sealed(self, plaintext_hasher: Hasher | None, held: int) -> Iterator[_Read | memoryview]:
        layout = by_format(self._seal.format)
        sealer = layout.sealer(self._seal.key, self._seal.size)
        if self._span.offset == 0 and self._seal.header:
            yield memoryview(self._seal.header)
        room = self._buffers.take(self._span.length)
        outs = room.outs(held)
        inputs = (room.plain,) if layout.seals else outs
        offset, end, turn = self._span.offset, self._span.offset + self._span.length, 0
        while True:
            out = outs[turn % held]
            plaintext = inputs[turn % len(inputs)][: min(CHUNK, end - offset)]
            yield _Read(plaintext, offset)
            if plaintext_hasher is not None:
                plaintext_hasher.update(plaintext)
            written = len(plaintext)
            if layout.seals:
                written = sealer.seal_into(offset // SEGMENT, plaintext, out)
            offset += len(plaintext)
            if offset >= end:
                self._room = room  # before the last bytes leave, as in note()
            if written:
                yield out[:written]
            if offset >= end:
                return
            turn += 1
