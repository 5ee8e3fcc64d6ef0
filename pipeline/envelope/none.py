"""No envelope: the object is the upload as it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.envelope.base import (
    BATCH,
    SEGMENT,
    Made,
    Opened,
    Passphrase,
    Readable,
    Sealer,
    check_offset,
    read_full,
)


class PlainSealer:
    """Copies. Who can send the plaintext itself saves even that."""

    def seal_into(self, first_segment: int, plaintext: memoryview, out: memoryview) -> int:
        """See :class:`~pipeline.envelope.base.Sealer`."""
        del first_segment
        length = len(plaintext)
        if len(out) < length:
            raise ValueError(f"{len(out)} bytes don't hold {length}")
        out[:length] = plaintext
        return length


class Plain:
    """The format ``none``. It needs no recipients and refuses none."""

    suffix = ""
    seals = False

    def make(self, recipients: Sequence[str]) -> Made:
        """No key, no header."""
        del recipients
        return Made(b"", b"", ())

    def sealed_size(self, header_length: int, plaintext_size: int) -> int:
        """The plaintext's size."""
        return header_length + plaintext_size

    def sealed_offset(self, header_length: int, plaintext_offset: int) -> int:
        """The same offset."""
        check_offset(plaintext_offset)
        return header_length + plaintext_offset if plaintext_offset else 0

    def sealer(self, key: bytes, plaintext_size: int) -> Sealer:
        """What copies."""
        del key, plaintext_size
        return PlainSealer()

    def opened(self, key: bytes, header_length: int) -> Opened:
        """No key is needed."""
        del key, header_length
        return _OpenedPlain()

    def open_header(
        self, source: Readable, secret_keys: Sequence[bytes], passphrase: Passphrase | None = None
    ) -> tuple[Opened, Readable]:
        """There is none, and no key is needed."""
        del secret_keys, passphrase
        return _OpenedPlain(), source

    def open_stream(self, source: Readable, secret_key: bytes) -> Iterator[memoryview]:
        """The source as it is."""
        del secret_key
        return _OpenedPlain().segments(source, 0, is_end=True)


class _OpenedPlain:
    """See :class:`~pipeline.envelope.base.Opened`."""

    header_length = 0
    sealed_segment = SEGMENT
    marks_end = False

    def plaintext_size(self, sealed_size: int) -> int:
        return sealed_size

    def kept(self, plaintext_size: int) -> list[tuple[int, int]]:
        return [(0, plaintext_size)]

    def segments(self, source: Readable, first: int, *, is_end: bool) -> Iterator[memoryview]:
        del first, is_end
        while piece := read_full(source, BATCH * SEGMENT):
            yield memoryview(piece)
