"""Chunked uploads as Nextcloud has them, and what it counts by itself."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from pipeline.destinations.base import PartPlace
from pipeline.destinations.webdav import WebDavDestination
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredPart, Target
from tests.peers.deliveries import BytesBody
from tests.peers.nextcloud_like import MIN_CHUNK, NextcloudLike

pytestmark = [pytest.mark.peers]

PIECES = [os.urandom(MIN_CHUNK) for _ in range(2)] + [b"the end"]
WHOLE = b"".join(PIECES)


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[NextcloudLike]:
    async with NextcloudLike(tmp_path) as started:
        yield started


@pytest.fixture
def spec(cloud: NextcloudLike) -> DestinationSpec:
    return DestinationSpec(
        name="cloud", type="webdav", url=cloud.url, user=cloud.user, password=cloud.password
    )


@pytest_asyncio.fixture
async def store(spec: DestinationSpec) -> AsyncIterator[WebDavDestination]:
    destination = WebDavDestination(spec)
    yield destination
    await destination.aclose()


@pytest.fixture
def target() -> Target:
    upload = str(uuid.uuid4())
    return Target(upload=upload, name=f"ä study/{upload}/x y.c4gh", size=len(WHOLE))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.retry.LONGEST_PAUSE", 0.05)


async def send(
    store: WebDavDestination, target: Target, reference: str, numbers: tuple[int, ...] = (1, 2, 3)
) -> list[StoredPart]:
    """Some of the parts, the last one first."""
    parts = []
    for number in reversed(numbers):
        piece = PIECES[number - 1]
        place = PartPlace(number=number, offset=MIN_CHUNK * (number - 1), size=len(piece))
        parts.append(await store.put_part(target, reference, place, BytesBody(piece)))
    return parts[::-1]


def files(cloud: NextcloudLike) -> list[str]:
    found = [*cloud.files.rglob("*"), *cloud.uploads.rglob("*")]
    return sorted(path.name for path in found if path.is_file())


async def test_chunks_are_put_together_under_a_hidden_name_and_moved_when_verified(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    assert files(cloud) == ["00001", "00002", "00003"]
    stored = await store.finish(target, reference, parts)
    assert files(cloud) == ["x y.c4gh"]
    assert (cloud.files / target.name).read_bytes() == WHOLE
    assert stored.verified == "readback"
    assert stored.uri.endswith(f"/{target.upload}/x%20y.c4gh")
    ways = [entry.partition(" ")[0] for entry in cloud.requests]
    moves = [entry for entry in cloud.requests if entry.startswith("MOVE")]
    assert moves[0].endswith("/.file")
    assert moves[1].endswith(".dropoffd-part")
    assert ways.index("GET") < len(ways) - ways[::-1].index("MOVE") - 1


async def test_a_lost_answer_is_settled_by_looking(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    cloud.late_moves = 2
    assert (await store.finish(target, reference, parts)).size == len(WHOLE)
    assert files(cloud) == ["x y.c4gh"]


@pytest.mark.parametrize("ended", ["assembled", "moved"])
async def test_a_try_that_died_at_its_end_is_only_verified_again(
    store: WebDavDestination, cloud: NextcloudLike, target: Target, ended: str
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    first = await store.finish(target, reference, parts)
    final = cloud.files / target.name
    if ended == "assembled":
        final.rename(final.with_name(f".x y.c4gh.{target.upload}.dropoffd-part"))
    assert (await store.resume(target, reference)).finished
    assert await store.finish(target, reference, parts) == first


async def test_a_wrong_object_never_gets_its_name(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    cloud.damaged = 1
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    with pytest.raises(VerificationError):
        await store.finish(target, reference, parts)
    assert files(cloud) == []


async def test_chunks_that_expired_are_forgotten(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    cloud.forget_uploads()
    with pytest.raises(ForgottenError):
        await store.resume(target, reference)
    with pytest.raises(ForgottenError):
        await send(store, target, reference, (1,))
    with pytest.raises(ForgottenError):
        await store.finish(target, reference, parts)
    await store.abort(target, reference)


async def test_an_abort_of_what_nobody_knows_the_reference_of_takes_all_of_the_upload(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    await send(store, target, await store.begin(target, stale=False))
    await store.begin(target, stale=False)
    assert list(cloud.uploads.iterdir())
    await store.abort(target, "")
    await store.abort(target, "")
    assert list(cloud.uploads.iterdir()) == []


async def test_an_answer_that_is_lost_as_the_server_closes_is_found_out(
    tmp_path: Path, target: Target
) -> None:
    (tmp_path / "rude").mkdir()
    async with NextcloudLike(tmp_path / "rude", lingering=0) as cloud:
        spec = DestinationSpec(
            name="cloud", type="webdav", url=cloud.url, user=cloud.user, password=cloud.password
        )
        store = WebDavDestination(spec)
        reference = await store.begin(target, stale=False)
        cloud.forget_uploads()
        with pytest.raises(ForgottenError):
            await send(store, target, reference, (1,))
        await store.aclose()


async def test_a_chunk_that_the_server_lost_is_sent_again_with_all_others(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    (cloud.uploads / reference / "00003").unlink()
    with pytest.raises(ForgottenError, match="400"):
        await store.finish(target, reference, parts)


async def test_a_server_in_maintenance_is_unreachable_until_it_is_back(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    cloud.failing = 4
    with pytest.raises(DestinationUnreachableError, match="503"):
        await store.finish(target, reference, parts)
    assert (await store.finish(target, reference, parts)).size == len(WHOLE)


async def test_a_chunk_that_was_replaced_is_not_taken_for_the_same(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    (sent,) = await send(store, target, reference, (1,))
    (cloud.uploads / reference / "00001").write_bytes(os.urandom(MIN_CHUNK))
    (held,) = (await store.resume(target, reference)).held or ()
    assert held.size == sent.size
    assert held.etag != sent.etag
    place = PartPlace(number=1, offset=0, size=MIN_CHUNK)
    assert await store.prove_part(target, reference, place, BytesBody(PIECES[0]), held) is None


async def test_a_chunk_is_proved_where_its_etag_is_its_md5(
    store: WebDavDestination, target: Target
) -> None:
    reference = await store.begin(target, stale=False)
    (sent,) = await send(store, target, reference, (1,))
    (held,) = (await store.resume(target, reference)).held or ()
    md5 = hashlib.md5(PIECES[0], usedforsecurity=False).hexdigest()
    on_s3 = msgspec.structs.replace(held, etag=md5)
    place = PartPlace(number=1, offset=0, size=MIN_CHUNK)
    proved = await store.prove_part(target, reference, place, BytesBody(PIECES[0]), on_s3)
    assert proved == msgspec.structs.replace(sent, etag=md5)


async def test_a_quota_that_is_used_up_is_the_servers_no(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    cloud.quota = len(WHOLE) - 1
    reference = await store.begin(target, stale=False)
    with pytest.raises(DestinationRefusedError, match="507: Insufficient space, 1 required"):
        await send(store, target, reference, (1,))


async def test_the_same_upload_may_go_to_two_places_on_one_server(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    elsewhere = msgspec.structs.replace(target, name=f"copies/{target.name}")
    first = await store.begin(target, stale=False)
    second = await store.begin(elsewhere, stale=True)
    for each, reference in ((target, first), (elsewhere, second)):
        await store.finish(each, reference, await send(store, each, reference))
    assert files(cloud) == ["x y.c4gh", "x y.c4gh"]


async def test_an_md5_that_the_server_counts_proves_an_object_in_one_request(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    stored = await store.put(target, BytesBody(WHOLE), stale=False)
    md5 = hashlib.md5(WHOLE, usedforsecurity=False).hexdigest()
    assert (stored.verified, stored.checksum) == ("checksum", {"md5": md5})
    assert not [entry for entry in cloud.requests if entry.startswith("GET")]


async def test_without_a_servers_md5_all_is_read_back(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    cloud.hashes = False
    stored = await store.put(target, BytesBody(WHOLE), stale=False)
    assert (stored.verified, list(stored.checksum)) == ("readback", ["crc64nvme"])


async def test_whole_objects_are_sent_where_chunks_are_not_wanted(
    spec: DestinationSpec, cloud: NextcloudLike, target: Target
) -> None:
    store = WebDavDestination(msgspec.structs.replace(spec, chunks=False))
    with pytest.raises(DestinationRefusedError, match="in parts"):
        await store.begin(target, stale=False)
    await store.put(target, BytesBody(WHOLE), stale=False)
    await store.aclose()
    assert not [entry for entry in cloud.requests if "/uploads/" in entry]


async def test_a_server_without_chunks_says_what_to_set(
    spec: DestinationSpec, cloud: NextcloudLike, target: Target
) -> None:
    cloud.uploads.rmdir()
    store = WebDavDestination(spec)
    with pytest.raises(DestinationRefusedError, match="chunks = false"):
        await store.begin(target, stale=False)
    await store.aclose()


async def test_a_collection_that_is_not_there_is_refused(
    spec: DestinationSpec, target: Target
) -> None:
    store = WebDavDestination(msgspec.structs.replace(spec, url=f"{spec.url}/gone"))
    with pytest.raises(DestinationRefusedError, match="is not there"):
        await store.begin(target, stale=False)
    await store.aclose()


@pytest.mark.parametrize("place", ["final", "hidden"])
async def test_what_was_sealed_with_another_key_is_never_taken_for_the_object(
    spec: DestinationSpec, cloud: NextcloudLike, target: Target, place: str
) -> None:
    store = WebDavDestination(msgspec.structs.replace(spec, verify="size"))
    final = cloud.files / target.name
    old = final if place == "final" else final.with_name(f".x y.c4gh.{target.upload}.dropoffd-part")
    for whole in (True, False):
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_bytes(WHOLE[::-1])
        if whole:
            await store.put(target, BytesBody(WHOLE), stale=True)
        else:
            reference = await store.begin(target, stale=True)
            await store.finish(target, reference, await send(store, target, reference))
        assert files(cloud) == ["x y.c4gh"]
        assert final.read_bytes() == WHOLE
    await store.aclose()


async def test_a_move_that_never_happened_is_not_taken_for_done(
    store: WebDavDestination, cloud: NextcloudLike, target: Target
) -> None:
    final = cloud.files / target.name
    final.parent.mkdir(parents=True)
    final.write_bytes(WHOLE[::-1])
    cloud.refused_moves = 4
    with pytest.raises(DestinationUnreachableError, match="could not be moved"):
        await store.put(target, BytesBody(WHOLE), stale=True)
    await store.put(target, BytesBody(WHOLE), stale=True)
    assert final.read_bytes() == WHOLE
