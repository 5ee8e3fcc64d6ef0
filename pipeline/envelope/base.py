"""What every envelope format offers, and what the formats share.

A sealed object is a header followed by segments. Each segment is sealed by itself, numbered from
0, so any run of whole segments can be sealed apart from the others: a part of a multipart upload
is sealed without the parts before it, and sealing it again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from pipeline.errors import EnvelopeError

SEGMENT: Final = 65536
"""Plaintext bytes of each segment but the last."""

BATCH: Final = 8
"""Segments that are opened at a time: 512 KiB of plaintext."""

MAX_RECIPIENTS: Final = 1024
"""More recipients than this are refused: a header is no mailing list."""


class Readable(Protocol):
    """A source of bytes; may give less than asked for, and gives nothing at its end."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""


class Seekable(Protocol):
    """A source of bytes that can be read from any place on."""

    @property
    def size(self) -> int:
        """All of its bytes."""

    def reader(self, start: int, stop: int) -> Readable:
        """The bytes from ``start`` to before ``stop``. Valid until the next one is asked for."""


Passphrase = Callable[[], bytes]
"""Asked for the passphrase where one is needed."""


class Made(NamedTuple):
    """What is fixed once for an upload, and equal for all its destinations."""

    key: bytes
    """The session key, 32 bytes; empty for ``none``. A secret."""
    header: bytes
    """What stands before the first segment; empty for ``none``."""
    fingerprints: tuple[str, ...]
    """Of the recipients' public keys, in their order, each once."""

    def __repr__(self) -> str:
        """Without the session key."""
        return f"Made(header={len(self.header)} bytes, fingerprints={self.fingerprints!r})"


class Sealer(Protocol):
    """Seals the segments of one upload; holds the cipher, so make one for many calls."""

    def seal_into(self, first_segment: int, plaintext: memoryview, out: memoryview) -> int:
        """Seal whole segments into the beginning of ``out``, and give the bytes written.

        ``plaintext`` starts at segment ``first_segment``, and is a multiple of ``SEGMENT`` long
        unless it ends with the upload. Both views are of plain bytes and don't overlap. ``out``
        holds at least ``sealed_size(0, len(plaintext))`` bytes. An empty upload is sealed by one
        call with an empty view (for age, that is a segment of its own).

        Raises ValueError where ``out`` is too small, or the plaintext isn't the upload's.
        """


class Opened(Protocol):
    """A sealed object whose header was read: what opens its segments, in any order."""

    @property
    def header_length(self) -> int:
        """Bytes before the first segment."""

    @property
    def sealed_segment(self) -> int:
        """Sealed bytes of each segment but the last."""

    @property
    def marks_end(self) -> bool:
        """Whether the last segment tells that it is the last one."""

    def plaintext_size(self, sealed_size: int) -> int:
        """Bytes that all segments of an object of ``sealed_size`` bytes hold.

        Raises EnvelopeError where no object can be that long.
        """

    def kept(self, plaintext_size: int) -> list[tuple[int, int]]:
        """What of them is meant to be read, as pairs of start and stop, in their order."""

    def segments(self, source: Readable, first: int, *, is_end: bool) -> Iterator[memoryview]:
        """The plaintext of the segments in ``source``, of which the first is number ``first``.

        ``is_end`` tells whether the object ends with them. A view is valid until the next one is
        taken. Raises EnvelopeError for bytes that are damaged or cut short.
        """


class Format(Protocol):
    """One format. Its layout is arithmetic alone: nothing needs to be read to place a part."""

    @property
    def suffix(self) -> str:
        """What is added to an object's name, e.g. ``.c4gh``; empty for ``none``."""

    @property
    def seals(self) -> bool:
        """False where sealed bytes are the plaintext itself, and copying them can be saved."""

    def make(self, recipients: Sequence[str]) -> Made:
        """A fresh session key, and the header that gives it to ``recipients``.

        ``recipients`` are public keys in the format's text form. Raises RecipientError for one
        of the wrong kind or size, a low-order point, or where there is none at all.
        """

    def sealed_size(self, header_length: int, plaintext_size: int) -> int:
        """Bytes of the whole object."""

    def sealed_offset(self, header_length: int, plaintext_offset: int) -> int:
        """Where the segment that starts at ``plaintext_offset`` stands in the object.

        0 stays 0: what starts at the beginning carries the header. Raises ValueError for an
        offset that isn't a multiple of ``SEGMENT``.
        """

    def sealer(self, key: bytes, plaintext_size: int) -> Sealer:
        """What seals an upload of ``plaintext_size`` bytes with the session key ``key``."""

    def opened(self, key: bytes, header_length: int) -> Opened:
        """What opens the segments of an object that the session key ``key`` sealed."""

    def open_header(
        self, source: Readable, secret_keys: Sequence[bytes], passphrase: Passphrase | None = None
    ) -> tuple[Opened, Readable]:
        """Read the header, and give what opens the segments, and the segments themselves.

        ``secret_keys`` are X25519 secret keys, 32 raw bytes each, any of which may fit;
        ``passphrase`` is asked where the format can be sealed by one, and is. Raises
        EnvelopeError where none fits, or the header is damaged.
        """

    def open_stream(self, source: Readable, secret_key: bytes) -> Iterator[memoryview]:
        """The plaintext of the object in ``source``, in constant memory.

        ``secret_key`` is the recipient's X25519 secret key, 32 raw bytes. A view is valid until
        the next one is taken. Raises EnvelopeError for a wrong key, and for bytes that are
        damaged or cut short; what was given before is authentic as far as the format goes.
        """


def segments_of(plaintext_size: int) -> int:
    """How many segments a plaintext has; none where it is empty."""
    return -(-plaintext_size // SEGMENT)


def opened_size(body: int, overhead: int) -> int:
    """Plaintext bytes of segments that take ``body`` bytes, ``overhead`` of them in each.

    Raises EnvelopeError where the last one is too short to be one.
    """
    full, rest = divmod(body, SEGMENT + overhead)
    if body < 0 or 0 < rest < overhead:
        raise EnvelopeError("the file is cut short")
    return full * SEGMENT + (rest - overhead if rest else 0)


def check_offset(plaintext_offset: int) -> None:
    """Raise ValueError for an offset inside a segment."""
    if plaintext_offset < 0 or plaintext_offset % SEGMENT:
        raise ValueError(f"no segment starts at plaintext byte {plaintext_offset}")


def read_full(source: Readable, size: int) -> bytes:
    """Exactly ``size`` bytes, or what is left before the end."""
    first = source.read(size)
    if len(first) == size or not first:
        return first
    pieces = [first]
    missing = size - len(first)
    while missing and (piece := source.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def read_batches(source: Readable, size: int) -> Iterator[tuple[bytes, bool]]:
    """All of ``source`` in pieces of ``size`` bytes, and whether a piece is the last one.

    An empty source is one empty, last piece.
    """
    piece = read_full(source, size)
    while True:
        following = read_full(source, size) if len(piece) == size else b""
        yield piece, not following
        if not following:
            return
        piece = following


class Rewound:
    """A source of which some bytes were read already, and are given again."""

    def __init__(self, start: bytes, source: Readable) -> None:
        self._start = start
        self._source = source

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""
        if not self._start:
            return self._source.read(size)
        piece, self._start = self._start[:size], self._start[size:]
        return piece
