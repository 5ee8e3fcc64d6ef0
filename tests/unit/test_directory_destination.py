"""Deliveries to a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.destinations import below
from pipeline.destinations.base import PartPlace
from pipeline.destinations.directory import ATTRIBUTE, DirectoryDestination
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredPart, Target, VerifyMode
from tests.peers.deliveries import BytesBody

UPLOAD = "0190-upload"
PIECES = [b"a" * 70_000, b"b" * 70_000, b"c" * 5]
WHOLE = b"".join(PIECES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryDestination:
    return store_of(root)


def store_of(root: Path, verify: VerifyMode = "checksum") -> DirectoryDestination:
    return DirectoryDestination(
        DestinationSpec(name="store", type="directory", directory=str(root), verify=verify)
    )


def target_of(name: str = "s/x.c4gh", upload: str = UPLOAD, size: int = len(WHOLE)) -> Target:
    return Target(upload=upload, name=name, size=size)


def places() -> list[tuple[PartPlace, bytes]]:
    offset, found = 0, []
    for number, piece in enumerate(PIECES, 1):
        found.append((PartPlace(number=number, offset=offset, size=len(piece)), piece))
        offset += len(piece)
    return found


async def send(store: DirectoryDestination, target: Target, reference: str) -> list[StoredPart]:
    parts = [
        await store.put_part(target, reference, place, BytesBody(piece))
        for place, piece in reversed(places())
    ]
    return parts[::-1]


async def deliver(store: DirectoryDestination, target: Target) -> None:
    reference = await store.begin(target, stale=False)
    await store.finish(target, reference, await send(store, target, reference))


def left(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("verify", ["checksum", "readback", "size"])
async def test_parts_in_any_order_make_the_file(verify: VerifyMode, root: Path) -> None:
    store = store_of(root, verify)
    target = target_of("a b/ü/x.c4gh")
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    assert left(root) == [f"a b/ü/.x.c4gh.{UPLOAD}.dropoffd-part"]
    stored = await store.finish(target, reference, parts)
    assert left(root) == ["a b/ü/x.c4gh"]
    assert (root / target.name).read_bytes() == WHOLE
    assert (stored.size, stored.verified) == (len(WHOLE), verify)
    assert stored.uri == (root / target.name).as_uri()
    assert bool(stored.checksum) == (verify != "size")
    assert await store.finish(target, reference, parts) == stored
    assert (await store.resume(target, reference)).finished


async def test_modes_are_closed_to_others(store: DirectoryDestination, root: Path) -> None:
    await deliver(store, target_of())
    assert (root / "s").stat().st_mode & 0o7 == 0
    assert (root / "s/x.c4gh").stat().st_mode & 0o137 == 0


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "a//x", "", ".", "a/", "a\0b", "x" * 256, "\ud800"]
)
async def test_a_name_that_leads_elsewhere_is_refused(
    name: str, store: DirectoryDestination, root: Path
) -> None:
    with pytest.raises(DestinationRefusedError):
        await store.begin(target_of(name), stale=False)
    assert left(root.parent) == []


async def test_links_below_the_root_are_not_followed(
    store: DirectoryDestination, root: Path
) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "s").symlink_to(outside)
    with pytest.raises(DestinationRefusedError):
        await store.begin(target_of(), stale=False)
    (root / "t").mkdir()
    (root / "t/x").symlink_to(outside / "y")
    with pytest.raises(DestinationRefusedError):
        await store.begin(target_of("t/x"), stale=False)
    with pytest.raises(DestinationRefusedError):
        await store.put(target_of("t/x"), BytesBody(WHOLE), stale=False)
    assert list(outside.iterdir()) == []


@given(st.text(min_size=1, max_size=300), st.text("0123456789abcdef-", min_size=1, max_size=36))
def test_a_temporary_name_is_always_possible(final: str, upload: str) -> None:
    try:
        _, last = below.components(final)
    except DestinationRefusedError:
        return
    name = below.temporary_name(last, upload)
    assert len(name.encode()) <= 255
    assert name.startswith(".")
    assert upload in name
    assert "/" not in name


async def test_only_true_parts_are_proved(store: DirectoryDestination, root: Path) -> None:
    target = target_of()
    reference = await store.begin(target, stale=False)
    sent = await send(store, target, reference)
    assert (await store.resume(target, reference)).held is None
    hidden = next((root / "s").iterdir())
    with hidden.open("r+b") as file:
        file.seek(70_001)
        file.write(b"!")
        file.truncate(140_004)
    proved = [
        await store.prove_part(target, reference, place, BytesBody(piece), None)
        for place, piece in places()
    ]
    assert proved == [sent[0], None, None]


@pytest.mark.parametrize("verify", ["checksum", "readback", "size"])
async def test_a_file_that_is_not_what_was_sent_never_gets_its_name(
    verify: VerifyMode, root: Path
) -> None:
    store = store_of(root, verify)
    target = target_of()
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    hidden = next((root / "s").iterdir())
    hidden.write_bytes(WHOLE[:-1] + (b"" if verify == "size" else b"!"))
    with pytest.raises(VerificationError):
        await store.finish(target, reference, parts)
    assert not (root / target.name).exists()


async def test_an_abort_leaves_nothing_and_may_be_repeated(
    store: DirectoryDestination, root: Path
) -> None:
    target = target_of()
    reference = await store.begin(target, stale=False)
    await send(store, target, reference)
    await store.abort(target, reference)
    await store.abort(target, reference)
    await store.abort(target_of("never/begun"), "1")
    assert left(root) == []
    with pytest.raises(ForgottenError):
        await store.resume(target, reference)
    with pytest.raises(ForgottenError):
        await store.put_part(target, reference, places()[0][0], BytesBody(PIECES[0]))


async def test_a_hidden_file_of_another_try_is_not_gone_on_with(
    store: DirectoryDestination, root: Path
) -> None:
    target = target_of()
    old = await store.begin(target, stale=False)
    (root / "s" / "holds the old inode").hardlink_to(next((root / "s").iterdir()))
    new = await store.begin(target, stale=True)
    assert new != old
    with pytest.raises(ForgottenError):
        await store.resume(target, old)


async def test_anothers_file_is_never_replaced(store: DirectoryDestination, root: Path) -> None:
    target = target_of()
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    (root / target.name).write_bytes(b"theirs")
    with pytest.raises(DestinationRefusedError, match="isn't this upload's"):
        await store.finish(target, reference, parts)
    with pytest.raises(DestinationRefusedError, match="isn't this upload's"):
        await store.begin(target, stale=True)
    with pytest.raises(DestinationRefusedError, match="isn't this upload's"):
        await store.put(target, BytesBody(WHOLE), stale=True)
    with pytest.raises(DestinationRefusedError, match="isn't this upload's"):
        await store.find(target)
    assert (root / target.name).read_bytes() == b"theirs"


async def test_an_equal_file_is_as_good_as_ours(store: DirectoryDestination, root: Path) -> None:
    target = target_of()
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    (root / target.name).write_bytes(WHOLE)
    assert (await store.finish(target, reference, parts)).size == len(WHOLE)
    assert left(root) == [target.name]


async def test_a_name_that_was_given_before_the_hidden_file_went_is_ours(
    store: DirectoryDestination, root: Path
) -> None:
    target = target_of()
    reference = await store.begin(target, stale=False)
    parts = await send(store, target, reference)
    (root / target.name).hardlink_to(next((root / "s").iterdir()))
    await store.finish(target, reference, parts)
    assert left(root) == [target.name]


async def test_a_small_object_may_be_sent_again_and_sealed_anew(
    store: DirectoryDestination, root: Path
) -> None:
    target = target_of(f"{UPLOAD}/x")
    first = await store.put(target, BytesBody(WHOLE), stale=False)
    assert await store.put(target, BytesBody(WHOLE), stale=True) == first
    anew = bytes(reversed(WHOLE))
    await store.put(target, BytesBody(anew), stale=True)
    assert (root / target.name).read_bytes() == anew
    assert left(root) == [target.name]


async def test_where_there_are_no_hard_links_names_are_given_by_renaming(
    store: DirectoryDestination, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    await deliver(store, target_of())
    assert left(root) == ["s/x.c4gh"]
    (root / "s/y").write_bytes(b"theirs")
    with pytest.raises(DestinationRefusedError):
        await deliver(store, target_of("s/y", upload="other"))
    assert (root / "s/y").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DestinationUnreachableError),
        (errno.EDQUOT, DestinationUnreachableError),
        (errno.EIO, DestinationUnreachableError),
        (errno.EROFS, DestinationUnreachableError),
        (errno.EACCES, DestinationRefusedError),
        (errno.EPERM, DestinationRefusedError),
    ],
)
async def test_an_error_while_writing_tells_whether_waiting_helps(
    number: int,
    expected: type[Exception],
    store: DirectoryDestination,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(expected, match=os.strerror(number)):
        await store.put(target_of(), BytesBody(WHOLE), stale=False)
    assert left(root) == []


async def test_a_root_that_is_away_may_come_back(tmp_path: Path) -> None:
    store = store_of(tmp_path / "not mounted")
    calls: Sequence[object] = (
        store.begin(target_of(), stale=False),
        store.resume(target_of(), "1"),
        store.put(target_of(), BytesBody(WHOLE), stale=False),
    )
    for call in calls:
        with pytest.raises(DestinationUnreachableError, match="No such file"):
            await call  # type: ignore[misc]


async def test_whose_file_it_is_shows_without_its_name(
    store: DirectoryDestination, root: Path
) -> None:
    await deliver(store, target_of())
    try:
        os.getxattr(root / "s/x.c4gh", ATTRIBUTE)
    except OSError:
        pytest.skip("this file system keeps no attributes")
    found = await store.find(target_of())
    assert found is not None
    assert found.size == len(WHOLE)
    assert await store.find(target_of("s/nothing")) is None
    assert await store.find(target_of("no/where")) is None
    with pytest.raises(DestinationRefusedError):
        await store.find(target_of(upload="another"))
