"""age files that C2SP made to find out readers that are too strict or not strict enough."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator

import pytest

from pipeline.envelope.age import Age
from pipeline.envelope.age_keys import age_secrets
from pipeline.envelope.ranges import (
    ByteRange,
    HeaderReader,
    open_range,
    open_whole,
    plaintext_size,
)
from pipeline.errors import EnvelopeError
from tests.peers.age_vectors import Vector, vectors

pytestmark = pytest.mark.peers

Open = Callable[[Vector], Iterator[memoryview]]


class Bytes:
    """A file in memory, to read from any place."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def reader(self, start: int, stop: int) -> io.BytesIO:
        return io.BytesIO(self._data[start:stop])


def secret_keys(vector: Vector) -> list[bytes]:
    return [key for identity in vector.identities for key in age_secrets(identity)]


def as_a_stream(vector: Vector) -> Iterator[memoryview]:
    source = io.BytesIO(vector.file)
    ask = vector.passphrase.encode if vector.passphrase else None
    return open_whole(*Age().open_header(source, secret_keys(vector), ask))


def as_a_range(vector: Vector) -> Iterator[memoryview]:
    source = Bytes(vector.file)
    ask = vector.passphrase.encode if vector.passphrase else None
    opened, _ = Age().open_header(HeaderReader(source), secret_keys(vector), ask)
    start, stop = ByteRange.parse("0-").within(plaintext_size(opened, source))
    return open_range(opened, source, start, stop)


def is_ours(vector: Vector) -> bool:
    """Neither armoured nor with a hybrid recipient: dropoffd makes no such files and reads none."""
    hybrid = any(identity.startswith("AGE-SECRET-KEY-PQ-") for identity in vector.identities)
    return not vector.armoured and not hybrid


def outcome(vector: Vector, read: Open) -> str:
    digest = hashlib.sha256()
    try:
        for piece in read(vector):
            digest.update(piece)
    except EnvelopeError:
        return "refused"
    return digest.hexdigest()


@pytest.mark.parametrize("read", [as_a_stream, as_a_range])
def test_every_file_of_the_kit_is_read_or_refused_as_it_should_be(read: Open) -> None:
    ours = [vector for vector in vectors() if is_ours(vector)]
    assert len(ours) > 80
    found = {vector.name: outcome(vector, read) for vector in ours}
    expected = {
        vector.name: vector.payload_sha256 if vector.expect == "success" else "refused"
        for vector in ours
    }
    assert found == expected
