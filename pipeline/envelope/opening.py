"""The way back: plaintext from a sealed file, whichever format it is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline import envelope
from pipeline.envelope import age, crypt4gh
from pipeline.envelope.base import Readable, Rewound, read_full
from pipeline.envelope.keyfiles import SecretKey
from pipeline.errors import EnvelopeError, ReceiptError
from pipeline.messages import EnvelopeFormat
from pipeline.receipt import PlaintextCheck, Receipt

MAGIC: Final[dict[bytes, EnvelopeFormat]] = {
    crypt4gh.MAGIC: "crypt4gh",
    age.MAGIC: "age",
}
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
        raise EnvelopeError(f"the file is sealed by {name}, and the key is for {secret.format}")
    if receipt is None:
        return envelope.by_format(name).open_stream(whole, secret.raw)
    if receipt.encryption.format != name:
        raise ReceiptError(
            f"the file is sealed by {name}, and the receipt says {receipt.encryption.format}"
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
            return name, Rewound(start, source)
    raise EnvelopeError("this is no Crypt4GH and no age file")


def _checked(plaintext: Iterator[memoryview], check: PlaintextCheck) -> Iterator[memoryview]:
    for piece in plaintext:
        check.update(piece)
        yield piece
    check.finish()
