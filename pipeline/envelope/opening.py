"""The way back: plaintext from a sealed file, whichever format it is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline import envelope
from pipeline.envelope import age, crypt4gh
from pipeline.envelope.base import Opened, Readable, Rewound, Seekable, read_full
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.ranges import (
    ByteRange,
    HeaderReader,
    open_range,
    open_whole,
    plaintext_size,
)
from pipeline.errors import EnvelopeError, ReceiptError, VerificationError
from pipeline.messages import EnvelopeFormat
from pipeline.receipt import PlaintextCheck, Receipt

MAGIC: Final[dict[bytes, EnvelopeFormat]] = {
    crypt4gh.MAGIC: "crypt4gh",
    age.MAGIC: "age",
}
"""How sealed files begin."""

_LONGEST: Final = max(map(len, MAGIC))


def open_sealed(
    source: Readable, secret: SecretKey | None, receipt: Receipt | None = None
) -> Iterator[memoryview]:
    """The plaintext of a sealed file, in constant memory; ``source`` need not be seekable.

    A view is valid until the next one is taken. With a receipt, the last step of the iteration
    tells whether all that was given is right: nothing may be trusted before. Without a secret
    key, only a file opens that isn't sealed at all, as its receipt has to say.

    Raises EnvelopeError for a file of no known format, a key that doesn't fit, and damage;
    ReceiptError for a receipt that can't be this file's; VerificationError where size or digest
    of the plaintext isn't the receipt's.
    """
    opened, rest = _open_header(source, secret, receipt)
    plaintext = open_whole(opened, rest)
    return plaintext if receipt is None else _checked(plaintext, PlaintextCheck(receipt))


def open_sealed_range(
    source: Seekable, secret: SecretKey | None, wanted: ByteRange, receipt: Receipt | None = None
) -> Iterator[memoryview]:
    """Some bytes of the plaintext of a sealed file, by reading the segments that hold them.

    With a receipt, the file's and the plaintext's size are held against it, and where all of the
    plaintext is asked for, also its digest as by :func:`open_sealed`.

    Raises as :func:`open_sealed` does, and RangeError for a range that isn't in the plaintext.
    """
    opened, _ = _open_header(HeaderReader(source), secret, receipt)
    size = plaintext_size(opened, source)
    if receipt is not None:
        _check_size("plaintext", size, receipt.size)
        _check_size("the sealed file", source.size, receipt.encryption.size)
    start, stop = wanted.within(size)
    plaintext = open_range(opened, source, start, stop)
    if receipt is None or (start, stop) != (0, size):
        return plaintext
    return _checked(plaintext, PlaintextCheck(receipt))


def recognise(source: Readable) -> tuple[EnvelopeFormat, Readable]:
    """The format of a sealed file, and the file from its beginning.

    Raises EnvelopeError for a file of no known format.
    """
    start = read_full(source, _LONGEST)
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            return name, Rewound(start, source)
    raise EnvelopeError("this is no Crypt4GH and no age file")


def _open_header(
    source: Readable, secret: SecretKey | None, receipt: Receipt | None
) -> tuple[Opened, Readable]:
    if secret is None and receipt is not None and receipt.encryption.format == "none":
        return envelope.by_format("none").open_header(source, ())
    name, whole = recognise(source)
    if secret is None or not (secret.raw or secret.format == name):
        raise EnvelopeError(f"the file is sealed by {name}, and no secret key is given")
    if secret.format != name:
        raise EnvelopeError(f"the file is sealed by {name}, and the key is for {secret.format}")
    if receipt is not None and receipt.encryption.format != name:
        raise ReceiptError(
            f"the file is sealed by {name}, and the receipt says {receipt.encryption.format}"
        )
    return envelope.by_format(name).open_header(whole, secret.keys, secret.passphrase)


def _check_size(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise VerificationError(f"{found} bytes of {what}, the receipt says {expected}")


def _checked(plaintext: Iterator[memoryview], check: PlaintextCheck) -> Iterator[memoryview]:
    for piece in plaintext:
        check.update(piece)
        yield piece
    check.finish()
