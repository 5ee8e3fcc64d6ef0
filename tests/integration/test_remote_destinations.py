"""What every storage that is reached by the names of files holds to, on real servers."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio

from daemon.workers import WorkerPool
from pipeline.destinations import limits_of
from pipeline.destinations.looking import look, name_of
from pipeline.destinations.probe import probe
from pipeline.destinations.reading import opened
from pipeline.destinations.webdav_urls import beside
from pipeline.envelope import SEGMENT
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
)
from pipeline.messages import StoredObject
from pipeline.parts import spans
from tests.peers.deliveries import Drop, decrypted, file_of
from tests.peers.remote_stores import KINDS, Store, running
from tests.peers.seaweedfs import free_ports
from tests.peers.sftp import new_key

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="module")]

SIZES: dict[str, Callable[[int], int]] = {
    "0": lambda _: 0,
    "1": lambda _: 1,
    "segment - 1": lambda _: SEGMENT - 1,
    "segment + 1": lambda _: SEGMENT + 1,
    "part - 1": lambda part: part - 1,
    "part + 1": lambda part: part + 1,
    "3 parts": lambda part: 3 * part,
}
"""Bytes of an upload, by those of a part."""

with_parts = pytest.mark.parametrize(
    "store", [kind for kind in KINDS if kind != "webdav"], indirect=True
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Store]]:
    async with AsyncExitStack() as stack:
        yield {
            kind: await stack.enter_async_context(running(kind, tmp_path_factory.mktemp("store")))
            for kind in KINDS
        }


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Store:
    kind: str = request.param
    return stores[kind]


@pytest.fixture
def data(store: Store) -> bytes:
    return os.urandom(store.part + 3)


@pytest.fixture
def source(tmp_path: Path, data: bytes) -> Iterator[int]:
    with file_of(tmp_path / "data", data) as fd:
        yield fd


def drop_of(pool: WorkerPool, store: Store, source: int, name: str = "{upload}/data.bin") -> Drop:
    upload = str(uuid.uuid4())
    name = f"a study/{name.replace('{upload}', upload)}"
    return drop_as(pool, store, source, upload, name)


def drop_as(pool: WorkerPool, store: Store, source: int, upload: str, name: str) -> Drop:
    drop = Drop(pool, store.spec, source, upload=upload, name=name)
    drop.spans = spans(drop.seal.size, store.part)
    return drop


async def of_upload(store: Store, drop: Drop) -> list[str]:
    """What is there of an upload."""
    return [name for name in await store.files() if drop.target.upload in name]


async def deliver(drop: Drop) -> StoredObject:
    """In parts where the storage takes them, else whole."""
    if limits_of(drop.destination).parts:
        return await drop.deliver()
    return (await drop.deliver_whole()).stored


async def resumed(drop: Drop, store: Store) -> StoredObject:
    """Of two tries, the first of which ended in the middle."""
    if not limits_of(drop.destination).parts:
        store.lay(beside(drop.target.name, drop.target.upload), b"left behind")
        return (await drop.deliver_whole(stale=True)).stored
    reference = (await drop.begin()).reference
    sent = {part.number: part for part in [await drop.send(reference, drop.spans[0])]}
    begun = await drop.begin(reference)
    assert begun.reference == reference
    if begun.held is None:
        assert await drop.prove(reference, drop.spans[0], None) == sent[1]
    else:
        assert [(held.number, held.size, held.etag) for held in begun.held] == [
            (1, sent[1].size, sent[1].etag)
        ]
    for span in drop.spans[1:]:
        sent[span.number] = await drop.send(reference, span)
    return await drop.finish(reference, [sent[number] for number in sorted(sent)])


async def repeated(drop: Drop) -> StoredObject:
    """Of two tries, the first of which got through without its answer coming back."""
    if not limits_of(drop.destination).parts:
        first = (await drop.deliver_whole()).stored
        assert (await drop.deliver_whole(stale=True)).stored.checksum == first.checksum
        return first
    reference = (await drop.begin()).reference
    parts = await drop.send_all(reference)
    parts = [*parts[:-1], await drop.send(reference, drop.spans[-1])]
    first = await drop.finish(reference, parts)
    assert (await drop.begin(reference)).finished
    assert await drop.finish(reference, parts) == first
    return first


@pytest.mark.parametrize("way", ["fresh", "resumed", "repeated"])
@pytest.mark.parametrize("size", SIZES)
async def test_what_arrives_decrypts_to_what_was_sent(
    size: str, way: str, pool: WorkerPool, store: Store, tmp_path: Path
) -> None:
    data = os.urandom(SIZES[size](store.part))
    with file_of(tmp_path / "data", data) as source:
        drop = drop_of(pool, store, source)
        match way:
            case "fresh":
                stored = await deliver(drop)
            case "resumed":
                stored = await resumed(drop, store)
            case _:
                stored = await repeated(drop)
    assert decrypted(await store.read(drop.target.name)) == data
    assert (stored.size, stored.verified) == (drop.target.size, "readback")
    assert stored.checksum.keys() == {"crc64nvme"}
    assert await of_upload(store, drop) == [drop.target.name]
    assert name_of(store.spec, stored.uri) == drop.target.name


async def test_a_small_upload_arrives_in_one_go_and_its_digest_is_known(
    pool: WorkerPool, store: Store, tmp_path: Path
) -> None:
    with file_of(tmp_path / "small", b"a few bytes") as source:
        drop = drop_of(pool, store, source)
        first = await drop.deliver_whole()
        again = await drop.deliver_whole(stale=True)
    assert decrypted(await store.read(drop.target.name)) == b"a few bytes"
    assert first.digest == again.digest == sha256(b"a few bytes").hexdigest()
    assert first.stored.checksum == again.stored.checksum


@with_parts
async def test_an_abort_leaves_nothing_and_may_be_repeated(
    pool: WorkerPool, store: Store, source: int
) -> None:
    drop = drop_of(pool, store, source)
    before = await store.files()
    reference = (await drop.begin()).reference
    await drop.send(reference, drop.spans[0])
    await drop.abort(reference)
    await drop.abort(reference)
    assert await store.files() == before
    with pytest.raises(ForgottenError):
        await drop.begin(reference)
    with pytest.raises(ForgottenError):
        await drop.send(reference, drop.spans[0])


@with_parts
async def test_a_try_that_nobody_remembers_is_cleared_away(
    pool: WorkerPool, store: Store, source: int, data: bytes
) -> None:
    drop = drop_of(pool, store, source)
    before = await store.files()
    await drop.send((await drop.begin()).reference, drop.spans[0])
    reference = (await drop.begin(stale=True)).reference
    await drop.finish(reference, await drop.send_all(reference))
    assert decrypted(await store.read(drop.target.name)) == data
    assert await store.files() == sorted([*before, drop.target.name])


async def test_anothers_object_is_never_replaced(
    pool: WorkerPool, store: Store, source: int
) -> None:
    drop = drop_of(pool, store, source, f"{uuid.uuid4()}.bin")
    parts = limits_of(store.spec).parts
    reference = (await drop.begin()).reference if parts else ""
    sent = await drop.send_all(reference) if parts else []
    other = drop_as(pool, store, source, "another", drop.target.name)
    await deliver(other)
    kept = await store.read(other.target.name)
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await (drop.finish(reference, sent) if parts else drop.deliver_whole())
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await (drop.begin(stale=True) if parts else drop.deliver_whole(stale=True))
    if parts:
        await drop.abort(reference)
    assert await store.read(other.target.name) == kept
    assert await of_upload(store, drop) == []


async def test_an_object_whose_name_tells_nothing_is_known_by_its_bytes(
    pool: WorkerPool, store: Store, source: int, data: bytes
) -> None:
    drop = drop_of(pool, store, source, f"{uuid.uuid4()}.bin")
    await repeated(drop)
    assert decrypted(await store.read(drop.target.name)) == data


async def test_no_more_is_claimed_than_was_asked_for(
    pool: WorkerPool, store: Store, source: int, data: bytes
) -> None:
    spec = msgspec.structs.replace(store.spec, verify="size")
    drop = drop_of(pool, dataclasses.replace(store, spec=spec), source)
    stored = await deliver(drop)
    assert (stored.size, stored.verified, stored.checksum) == (drop.target.size, "size", {})
    assert decrypted(await store.read(drop.target.name)) == data


async def test_a_wrong_password_or_key_is_refused(
    pool: WorkerPool, store: Store, source: int, tmp_path: Path
) -> None:
    spec = msgspec.structs.replace(store.spec, password="wrong")
    if spec.key:
        new_key(tmp_path / "other_key")
        spec = msgspec.structs.replace(store.spec, key=str(tmp_path / "other_key"))
    drop = drop_of(pool, dataclasses.replace(store, spec=spec), source)
    with pytest.raises(DestinationRefusedError) as caught:
        await deliver(drop)
    assert "wrong" not in caught.value.message
    assert await of_upload(store, drop) == []


async def test_a_port_that_nobody_listens_on_is_unreachable(
    pool: WorkerPool, store: Store, source: int
) -> None:
    (port,) = free_ports(1)
    if store.spec.type == "sftp":
        spec = msgspec.structs.replace(store.spec, port=port)
    else:
        path = urlsplit(store.spec.url).path
        spec = msgspec.structs.replace(store.spec, url=f"http://127.0.0.1:{port}{path}")
    with pytest.raises(DestinationUnreachableError):
        await deliver(drop_of(pool, dataclasses.replace(store, spec=spec), source))


async def test_stored_objects_can_be_looked_at_and_read_from_their_middle(
    pool: WorkerPool, store: Store, source: int
) -> None:
    drop = drop_of(pool, store, source)
    stored = await deliver(drop)
    name, sealed = drop.target.name, await store.read(drop.target.name)
    for read in (False, True):
        found = await look(store.spec, name, read=read)
        assert found is not None
        assert (found.size, found.etag) == (stored.size, stored.etag)
        assert found.crc64nvme == (stored.checksum["crc64nvme"] if read else "")
    assert await look(store.spec, name + ".gone", read=True) is None
    async with opened(store.spec, name) as readable:
        assert readable.size == len(sealed)
        for start, stop in (
            (0, 10),
            (store.part - 5, store.part + 100),
            (len(sealed) - 1, len(sealed)),
        ):
            pieces = [piece async for piece in readable.read(start, stop)]
            assert b"".join(pieces) == sealed[start:stop]
    with pytest.raises(DestinationRefusedError, match="is not there"):
        async with opened(store.spec, name + ".gone"):
            pass


async def test_check_leaves_nothing(store: Store) -> None:
    before = await store.files()
    assert await probe(store.spec, uuid.uuid4().hex) == []
    assert await store.files() == before
