"""Crypt4GH version 1, as GA4GH specifies it: X25519 and ChaCha20-Poly1305, many recipients.

The format doesn't notice segments that are cut off, swapped or doubled at their boundaries. That
is why a receipt carries size and digest of the plaintext, see :mod:`pipeline.receipt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pipeline.envelope import crypt4gh_header as head
from pipeline.envelope.base import (
    BATCH,
    MAX_RECIPIENTS,
    SEGMENT,
    Made,
    Opened,
    Passphrase,
    Readable,
    Sealer,
    check_offset,
    opened_size,
    read_batches,
    segments_of,
)
from pipeline.envelope.keys import crypt4gh_public
from pipeline.envelope.ranges import open_whole
from pipeline.envelope.segments import KEY, NONCE, TAG, SegmentSealer
from pipeline.envelope.x25519 import fingerprint
from pipeline.errors import EnvelopeError, RecipientError

MAGIC: Final = head.MAGIC
SEALED_SEGMENT: Final = NONCE + SEGMENT + TAG


class Crypt4GH:
    """The format ``crypt4gh``."""

    suffix = ".c4gh"
    seals = True

    def make(self, recipients: Sequence[str]) -> Made:
        """See :meth:`pipeline.envelope.base.Format.make`. A recipient given twice counts once."""
        public_keys = tuple(dict.fromkeys(crypt4gh_public(text) for text in recipients))
        if not public_keys:
            raise RecipientError("encryption is asked for, and no recipient is given")
        if len(public_keys) > MAX_RECIPIENTS:
            raise RecipientError(f"{len(public_keys)} recipients, at most {MAX_RECIPIENTS} can be")
        key = os.urandom(KEY)
        # One throw-away writer for the whole header: each packet's key still differs, because
        # the recipients do, and nobody can tell later who sealed the file.
        writer = X25519PrivateKey.generate()
        packets = [head.seal_packet(writer, public, head.data_key(key)) for public in public_keys]
        fingerprints = tuple(fingerprint("c4gh", public) for public in public_keys)
        return Made(key, head.join(packets), fingerprints)

    def sealed_size(self, header_length: int, plaintext_size: int) -> int:
        """An empty plaintext is a header and no segment."""
        return header_length + plaintext_size + segments_of(plaintext_size) * (NONCE + TAG)

    def sealed_offset(self, header_length: int, plaintext_offset: int) -> int:
        """See :meth:`pipeline.envelope.base.Format.sealed_offset`."""
        check_offset(plaintext_offset)
        segment = plaintext_offset // SEGMENT
        return header_length + segment * SEALED_SEGMENT if segment else 0

    def sealer(self, key: bytes, plaintext_size: int) -> Sealer:
        """See :meth:`pipeline.envelope.base.Format.sealer`."""
        return SegmentSealer(key, plaintext_size, stored=NONCE)

    def opened(self, key: bytes, header_length: int) -> Opened:
        """See :meth:`pipeline.envelope.base.Format.opened`."""
        return _OpenedCrypt4GH(head.Header(length=header_length, keys=[key], edits=None))

    def open_header(
        self, source: Readable, secret_keys: Sequence[bytes], passphrase: Passphrase | None = None
    ) -> tuple[Opened, Readable]:
        """See :meth:`pipeline.envelope.base.Format.open_header`. No passphrase opens one."""
        del passphrase
        return _OpenedCrypt4GH(head.open_header(source, secret_keys)), source

    def open_stream(self, source: Readable, secret_key: bytes) -> Iterator[memoryview]:
        """See :meth:`pipeline.envelope.base.Format.open_stream`. Edit lists are followed."""
        return open_whole(*self.open_header(source, [secret_key]))


class _OpenedCrypt4GH:
    """See :class:`~pipeline.envelope.base.Opened`."""

    sealed_segment = SEALED_SEGMENT
    marks_end = False

    def __init__(self, header: head.Header) -> None:
        self.header_length = header.length
        self._keys = header.keys
        self._edits = header.edits

    def plaintext_size(self, sealed_size: int) -> int:
        return opened_size(sealed_size - self.header_length, NONCE + TAG)

    def kept(self, plaintext_size: int) -> list[tuple[int, int]]:
        """What an edit list leaves: its lengths are skipped and kept in turns.

        After a last length to skip everything is kept, after a last one to keep nothing more is.
        """
        bounds = [min(bound, plaintext_size) for bound in accumulate(self._edits or (0,))]
        if len(bounds) % 2:
            bounds.append(plaintext_size)
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        return [(start, stop) for start, stop in pairs if start < stop]

    def segments(self, source: Readable, first: int, *, is_end: bool) -> Iterator[memoryview]:
        del is_end  # nothing in the format tells
        ciphers = [ChaCha20Poly1305(key) for key in self._keys]
        out = memoryview(bytearray(BATCH * SEGMENT))
        segment = first
        for batch, _ in read_batches(source, BATCH * SEALED_SEGMENT):
            view = memoryview(batch)
            written = 0
            for start in range(0, len(view), SEALED_SEGMENT):
                sealed = view[start : start + SEALED_SEGMENT]
                written += _open_segment(ciphers, segment, sealed, out[written:])
                segment += 1
            yield out[:written]


def _open_segment(
    ciphers: list[ChaCha20Poly1305], segment: int, sealed: memoryview, out: memoryview
) -> int:
    length = len(sealed) - NONCE - TAG
    if length < 0:
        raise EnvelopeError(f"segment {segment} is cut short")
    nonce, body = bytes(sealed[:NONCE]), sealed[NONCE:]
    for cipher in ciphers:
        try:
            cipher.decrypt_into(nonce, body, None, out[:length])
        except InvalidTag:
            continue
        # The next segment most likely has the same key.
        if cipher is not ciphers[0]:
            ciphers.remove(cipher)
            ciphers.insert(0, cipher)
        return length
    raise EnvelopeError(f"segment {segment} is damaged or cut short")
