"""Envelopes: how plaintext becomes the bytes that are stored, and back."""

from __future__ import annotations

from typing import Final

from pipeline.envelope.age import Age
from pipeline.envelope.base import BATCH, SEGMENT, Format, Made, Readable, Sealer
from pipeline.envelope.crypt4gh import Crypt4GH
from pipeline.envelope.none import Plain
from pipeline.messages import EnvelopeFormat

__all__ = ["BATCH", "SEGMENT", "Format", "Made", "Readable", "Sealer", "by_format"]

_FORMATS: Final[dict[EnvelopeFormat, Format]] = {
    "crypt4gh": Crypt4GH(),
    "age": Age(),
    "none": Plain(),
}


def by_format(name: EnvelopeFormat) -> Format:
    """The format of that name."""
    return _FORMATS[name]
