"""How an SFTP server is reached, and what OpenSSH's own makes of a delivery."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from pipeline.destinations import open_destination, sftp_files
from pipeline.destinations.base import PartPlace
from pipeline.destinations.sftp import SftpDestination
from pipeline.destinations.sftp_client import Session
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    VerificationError,
)
from pipeline.messages import DestinationSpec, StoredObject, StoredPart, Target
from tests.peers.deliveries import MIB, BytesBody
from tests.peers.sftp import OpenSsh, new_key

pytestmark = [pytest.mark.peers]

UPLOAD = "0190-upload"
PIECES = [os.urandom(3 * MIB), os.urandom(3 * MIB), b"the end"]
WHOLE = b"".join(PIECES)
TARGET = Target(upload=UPLOAD, name=f"ä study/{UPLOAD}/x y.c4gh", size=len(WHOLE))
HIDDEN = f"ä study/{UPLOAD}/.x y.c4gh.{UPLOAD}.dropoffd-part"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.destinations.retry.LONGEST_PAUSE", 0.2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenSsh]:
    with OpenSsh(tmp_path) as started:
        yield started


@pytest.fixture
def spec(server: OpenSsh) -> DestinationSpec:
    return spec_of(server)


@pytest_asyncio.fixture
async def store(spec: DestinationSpec) -> AsyncIterator[SftpDestination]:
    destination = SftpDestination(spec)
    yield destination
    await destination.aclose()


def spec_of(server: OpenSsh) -> DestinationSpec:
    return DestinationSpec(
        name="inbox",
        type="sftp",
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        key=str(server.key_file),
        host_keys=server.host_key,
        directory=str(server.directory),
    )


async def put(spec: DestinationSpec) -> StoredObject:
    destination = open_destination(spec)
    try:
        return await destination.put(TARGET, BytesBody(WHOLE), stale=False)
    finally:
        await destination.aclose()


async def send(
    store: SftpDestination, reference: str, numbers: tuple[int, ...] = (1, 2, 3)
) -> list[StoredPart]:
    """Some of the parts, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                store.put_part(
                    TARGET,
                    reference,
                    PartPlace(
                        number=number,
                        offset=3 * MIB * (number - 1),
                        size=len(PIECES[number - 1]),
                    ),
                    BytesBody(PIECES[number - 1]),
                )
            )
            for number in numbers
        ]
    return [task.result() for task in tasks]


async def test_parts_share_a_connection_and_grow_in_a_hidden_file(
    store: SftpDestination, server: OpenSsh
) -> None:
    reference = await store.begin(TARGET, stale=False)
    parts = await send(store, reference)
    assert names_beside(server.directory / HIDDEN) == [Path(HIDDEN).name]
    stored = await store.finish(TARGET, reference, parts)
    final = server.directory / TARGET.name
    assert final.read_bytes() == WHOLE
    assert names_beside(final) == [final.name]
    assert stored.uri.startswith(f"sftp://127.0.0.1:{server.port}/")
    assert (final.stat().st_mode & 0o777, final.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    assert server.log.read_text().count("Accepted publickey") == 1


async def test_a_connection_that_broke_is_made_again(
    store: SftpDestination, server: OpenSsh
) -> None:
    reference = await store.begin(TARGET, stale=False)
    parts = await send(store, reference, (1, 2))
    await store.aclose()
    server.stop()
    with pytest.raises(DestinationUnreachableError):
        await send_alone(store, reference)
    server.start()
    parts.append(await send_alone(store, reference))
    await store.finish(TARGET, reference, parts)
    assert (server.directory / TARGET.name).read_bytes() == WHOLE


async def send_alone(store: SftpDestination, reference: str) -> StoredPart:
    place = PartPlace(number=3, offset=6 * MIB, size=len(PIECES[2]))
    return await store.put_part(TARGET, reference, place, BytesBody(PIECES[2]))


async def test_only_true_parts_are_proved(store: SftpDestination, server: OpenSsh) -> None:
    reference = await store.begin(TARGET, stale=False)
    sent = await send(store, reference)
    with (server.directory / HIDDEN).open("r+b") as file:
        file.seek(3 * MIB + 17)
        file.write(b"!")
        file.truncate(len(WHOLE) - 1)
    proved = [
        await store.prove_part(
            TARGET,
            reference,
            PartPlace(number=number, offset=3 * MIB * (number - 1), size=len(piece)),
            BytesBody(piece),
            None,
        )
        for number, piece in enumerate(PIECES, start=1)
    ]
    assert proved == [sent[0], None, None]


@pytest.mark.parametrize("damage", [b"!", b""])
async def test_a_file_that_is_not_what_was_sent_never_gets_its_name(
    store: SftpDestination, server: OpenSsh, damage: bytes
) -> None:
    reference = await store.begin(TARGET, stale=False)
    parts = await send(store, reference)
    (server.directory / HIDDEN).write_bytes(WHOLE[:-1] + damage)
    with pytest.raises(VerificationError):
        await store.finish(TARGET, reference, parts)
    assert not (server.directory / TARGET.name).exists()


async def test_a_file_that_came_in_between_keeps_its_name(
    store: SftpDestination, server: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = msgspec.structs.replace(TARGET, name="x.bin")
    reference = await store.begin(target, stale=False)
    parts = [
        await store.put_part(
            target, reference, PartPlace(number=1, offset=0, size=len(WHOLE)), BytesBody(WHOLE)
        )
    ]
    monkeypatch.setattr("pipeline.destinations.sftp.look", blind_to("x.bin"))
    (server.directory / "x.bin").write_bytes(b"theirs")
    with pytest.raises(DestinationRefusedError, match="left as it is"):
        await store.finish(target, reference, parts)
    assert (server.directory / "x.bin").read_bytes() == b"theirs"


async def test_only_the_expected_server_is_spoken_to(
    spec: DestinationSpec, server: OpenSsh, tmp_path: Path
) -> None:
    other = new_key(tmp_path / "another")
    with pytest.raises(DestinationRefusedError, match="host key is none of the expected"):
        await put(msgspec.structs.replace(spec, host_keys=other))
    (tmp_path / "known_hosts").write_text(f"another.example {server.host_key}\n")
    with pytest.raises(DestinationRefusedError, match="host key is none of the expected"):
        await put(msgspec.structs.replace(spec, host_keys=str(tmp_path / "known_hosts")))
    for nothing in ("", "ssh-ed25519 nonsense", str(tmp_path / "gone")):
        with pytest.raises(DestinationRefusedError, match="host key"):
            await put(msgspec.structs.replace(spec, host_keys=nothing))
    assert "Accepted" not in server.log.read_text()
    known = server.known_hosts(tmp_path / "right")
    await put(msgspec.structs.replace(spec, host_keys=str(known)))


async def test_a_private_key_may_be_encrypted_and_its_passphrase_stays_here(
    spec: DestinationSpec, server: OpenSsh, tmp_path: Path
) -> None:
    public = new_key(tmp_path / "locked", "open sesame")
    (tmp_path / "authorized_keys").write_text(public)
    spec = msgspec.structs.replace(spec, key=(tmp_path / "locked").read_text())
    with pytest.raises(DestinationRefusedError, match="another passphrase") as caught:
        await put(msgspec.structs.replace(spec, password="wrong"))
    assert "wrong" not in str(caught.value)
    assert "Accepted" not in server.log.read_text()
    await put(msgspec.structs.replace(spec, password="open sesame"))


@pytest.mark.parametrize("key", ["nonsense", "/gone/id_ed25519"])
async def test_a_key_that_is_none_is_refused(spec: DestinationSpec, key: str) -> None:
    with pytest.raises(DestinationRefusedError, match="private key"):
        await put(msgspec.structs.replace(spec, key=key))


async def test_what_the_server_does_not_allow_is_refused(tmp_path: Path) -> None:
    with OpenSsh(tmp_path, read_only=True) as server:
        (server.directory / TARGET.name).parent.mkdir(parents=True)
        with pytest.raises(DestinationRefusedError, match="denied"):
            await put(spec_of(server))


async def test_a_directory_that_is_not_there_may_be_mounted_later(spec: DestinationSpec) -> None:
    with pytest.raises(DestinationUnreachableError, match="no directory on the server"):
        await put(msgspec.structs.replace(spec, directory=f"{spec.directory}/away"))


async def test_a_hidden_file_that_is_gone_is_forgotten(
    store: SftpDestination, server: OpenSsh
) -> None:
    reference = await store.begin(TARGET, stale=False)
    parts = await send(store, reference, (1,))
    (server.directory / HIDDEN).unlink()
    with pytest.raises(ForgottenError):
        await store.resume(TARGET, reference)
    with pytest.raises(ForgottenError):
        await store.finish(TARGET, reference, parts)


def test_without_its_library_sftp_says_what_to_install(
    spec: DestinationSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.destinations.remote.SFTP_LIBRARY", "not_installed_here")
    with pytest.raises(DestinationRefusedError, match=r"pip install dropoffd\[sftp\]"):
        open_destination(spec)


def names_beside(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir()]


def blind_to(name: str) -> object:
    """A look that doesn't see a file, once: it comes right after."""
    look = sftp_files.look
    seen: list[str] = []

    async def looked(session: Session, path: str) -> object:
        if path.endswith(f"/{name}") and not seen:
            seen.append(path)
            return None
        return await look(session, path)

    return looked
