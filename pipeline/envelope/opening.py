"""The way back: plaintext from a sealed file, whichever format it is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline import envelope
from pipeline.envelope import crypt4gh_header
from pipeline.envelope.base import Readable, read_full
from pipeline.envelope.keyfiles import SecretKey
from pipeline.errors import EnvelopeError, ReceiptError
from pipeline.messages import EnvelopeFormat
from pipeline.receipt import PlaintextCheck, Receipt

MAGIC: Final[dict[bytes, EnvelopeFormat]] = {crypt4gh_header.MAGIC: "crypt4gh"}
"""How sealed files begin."""

_LONGEST: Final = max(map(len, MAGIC))


def open_sealed(
    source: Readable, secret: SecretKey, receipt: Receipt | None = None
) -> Iterator[memoryview]:
    """The plaintext of a sealed file, in constant memory; ``source`` need not be seekable.

    A view is valid until the next one is taken. With a receipt, the last step of the iteration
    tells whether all that was given is right: nothing may be trusted before.

    Raises EnvelopeError for a file of no known format, a key that doesn't fit, and damage;
    ReceiptError for a receipt that can't be this file's; VerificationError where size or digest
    of the plaintext isn't the receipt's.
    """
    name, whole = recognise(source)
    if secret.format != name:
        raise EnvelopeError(f"the file is a {name} one, and the key is for {secret.format}")
    if receipt is None:
        return envelope.by_format(name).open_stream(whole, secret.raw)
    if receipt.encryption.format != name:
        raise ReceiptError(
            f"the file is a {name} one, and the receipt's objects are {receipt.encryption.format}"
        )
    check = PlaintextCheck(receipt)
    return _checked(envelope.by_format(name).open_stream(whole, secret.raw), check)


def recognise(source: Readable) -> tuple[EnvelopeFormat, Readable]:
    """The format of a sealed file, and the file from its beginning.

    Raises EnvelopeError for a file of no known format.
    """
    start = read_full(source, _LONGEST)
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            return name, _Rewound(start, source)
    raise EnvelopeError("this is no Crypt4GH and no age file")


def _checked(plaintext: Iterator[memoryview], check: PlaintextCheck) -> Iterator[memoryview]:
    for piece in plaintext:
        check.update(piece)
        yield piece
    check.finish()


class _Rewound:
    """A source whose first bytes were looked at already, and are given again."""

    def __init__(self, start: bytes, source: Readable) -> None:
        self._start = start
        self._source = source

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""
        if not self._start:
            return self._source.read(size)
        piece, self._start = self._start[:size], self._start[size:]
        return piece
