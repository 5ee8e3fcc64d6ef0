"""The journal's files: who may use them, what is secret in them, how they are read and upgraded."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.errors import ConfigError, ConflictError, NotFoundError
from daemon.journal.database import SCHEMA_VERSION
from daemon.journal.model import UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.journal.wrapping import KEY_FILE, KEY_SIZE, Wrapper
from pipeline.messages import DestinationSpec
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    SESSION_KEY,
    acknowledge_all,
    attempt,
    envelope,
    identity,
    inline,
    new_delivery,
    processing,
    received,
    sighting,
    stored,
    stored_object,
)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with await SqliteJournal.open(tmp_path) as opened:
        yield opened


def bytes_on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.glob("journal.sqlite*"))


def modes_of(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    (directory / "journal.sqlite").chmod(0o400)
    directory.chmod(0o500)
    yield
    directory.chmod(0o700)


# Files ----------------------------------------------------------------------------------------


async def test_nobody_else_can_read_the_journal(journal: SqliteJournal, tmp_path: Path) -> None:
    await received(journal)
    modes = modes_of(tmp_path)
    assert set(modes) == {
        "journal.sqlite",
        "journal.sqlite-wal",
        "journal.sqlite-shm",
        "journal.key",
        "journal.lock",
    }
    assert set(modes.values()) == {0o600}


async def test_a_second_daemon_is_refused(journal: SqliteJournal, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in use by another dropoffd"):
        await SqliteJournal.open(tmp_path)
    assert (await received(journal)).state is UploadState.RECEIVED


async def test_a_closed_journal_can_be_opened_again_with_all_that_was_written(
    tmp_path: Path,
) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        upload = await processing(journal)
        await journal.aclose()
    async with await SqliteJournal.open(tmp_path) as journal:
        assert await journal.upload(upload.id) == upload
        assert await journal.envelope(upload.id) == envelope()


async def test_every_write_is_synced(journal: SqliteJournal) -> None:
    settings = ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
    found = await journal._writer.run(
        lambda tx: [tx.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in settings]
    )
    assert found == ["wal", 2, 1, 1]


async def test_a_journal_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    await (await SqliteJournal.open(tmp_path)).aclose()
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer release"):
        await SqliteJournal.open(tmp_path)
    with pytest.raises(ConfigError, match="newer release"):
        await SqliteJournal.open_readonly(tmp_path).counts()


async def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError, match=r"journal\.sqlite"):
        await SqliteJournal.open(tmp_path)
    assert path.read_bytes() == b"something else" * 1000


async def test_a_start_that_was_refused_leaves_no_claim(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError):
        await SqliteJournal.open(tmp_path)
    path.unlink()
    await (await SqliteJournal.open(tmp_path)).aclose()


async def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path)
    await journal.aclose()
    with pytest.raises(RuntimeError):
        await journal.sight(sighting(), 100.0)


# The key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
async def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    await (await SqliteJournal.open(tmp_path)).aclose()
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(ConfigError, match="expected 0600"):
        await SqliteJournal.open(tmp_path)


async def test_a_lost_key_is_refused_while_uploads_need_it(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        await processing(journal)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="missing"):
        await SqliteJournal.open(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()


async def test_a_lost_key_that_no_upload_needs_is_made_anew(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        await received(journal)
    (tmp_path / KEY_FILE).unlink()
    await (await SqliteJournal.open(tmp_path)).aclose()
    assert len((tmp_path / KEY_FILE).read_bytes()) == KEY_SIZE


@pytest.mark.parametrize("key", [b"", b"short", b"x" * KEY_SIZE, b"x" * (KEY_SIZE + 1)])
async def test_another_key_is_refused_at_the_start(tmp_path: Path, key: bytes) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        await processing(journal)
    (tmp_path / KEY_FILE).write_bytes(key)
    with pytest.raises(ConfigError, match=KEY_FILE):
        await SqliteJournal.open(tmp_path)


async def test_a_key_half_written_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / f"{KEY_FILE}.new").write_bytes(b"torn")
    await (await SqliteJournal.open(tmp_path)).aclose()
    assert len((tmp_path / KEY_FILE).read_bytes()) == KEY_SIZE
    assert not (tmp_path / f"{KEY_FILE}.new").exists()


def test_a_wrapped_secret_opens_only_for_its_upload_and_purpose() -> None:
    wrapper = Wrapper(b"k" * KEY_SIZE)
    blob = wrapper.wrap("upload", "session key", b"secret")
    assert wrapper.unwrap("upload", "session key", blob) == b"secret"
    assert blob != wrapper.wrap("upload", "session key", b"secret")
    for upload, purpose in (("other", "session key"), ("upload", "delivery 0")):
        with pytest.raises(ConfigError):
            wrapper.unwrap(upload, purpose, blob)


# Secrets --------------------------------------------------------------------------------------


async def test_no_secret_stands_in_the_journal_in_clear(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    upload = await processing(journal)
    raw = bytes_on_disk(tmp_path)
    assert b"https://s3.example.org" in raw
    assert b"clear-text" not in raw
    assert SESSION_KEY not in raw
    await journal.aclose()
    raw = bytes_on_disk(tmp_path)
    assert upload.id.encode() in raw
    assert b"clear-text" not in raw
    assert SESSION_KEY not in raw


async def test_secrets_live_until_done(journal: SqliteJournal) -> None:
    upload = await stored(journal)
    assert await _wrapped(journal, upload.id) == 2
    assert (await journal.deliveries(upload.id))[0].destination == inline()
    await acknowledge_all(journal)
    await journal.done(upload.id, 120.0)
    assert await _wrapped(journal, upload.id) == 0
    bare = (await journal.deliveries(upload.id))[0].destination
    assert (bare.access_key, bare.secret_key, bare.session_token) == ("", "", "")
    assert (bare.name, bare.endpoint) == ("inline-0", "https://s3.example.org")
    with pytest.raises(ConflictError):
        await journal.envelope(upload.id)


@pytest.mark.parametrize("end", ["terminate", "discard"])
@pytest.mark.parametrize("unfinished", [False, True])
async def test_secrets_of_a_withdrawn_upload_live_until_nothing_unfinished_is_left(
    journal: SqliteJournal, end: str, *, unfinished: bool
) -> None:
    upload = await processing(journal)
    if unfinished:
        await journal.begun(upload.id, 0, "ref")
    await journal.fail(upload.id, ERROR, 110.0)
    assert await _wrapped(journal, upload.id) == 2
    if end == "terminate":
        await journal.terminate(DIRECTORY, "t1", 120.0)
    else:
        await journal.discard(upload.id, 120.0)
    assert await _wrapped(journal, upload.id) == (2 if unfinished else 0)
    if unfinished:
        await journal.aborted(upload.id, 0)
        assert await _wrapped(journal, upload.id) == 0


async def test_starting_over_erases_the_key(journal: SqliteJournal) -> None:
    upload = await processing(journal)
    await journal.start_over(upload.id, 110.0)
    assert await _wrapped(journal, upload.id) == 0


async def test_a_destination_without_secrets_is_kept_whole(journal: SqliteJournal) -> None:
    spec = DestinationSpec(name="local", type="directory", directory="/srv/store", verify="size")
    upload = await received(journal)
    await journal.plan(upload.id, envelope(), [new_delivery(spec)], identity(), 101.0)
    await journal.attempt(upload.id, 0, 102.0)
    await journal.terminate(DIRECTORY, "t1", 120.0)
    assert (await journal.deliveries(upload.id))[0].destination == spec


async def _wrapped(journal: SqliteJournal, upload: str) -> int:
    """How many wrapped secrets an upload has."""
    question = (
        "SELECT (SELECT count(secret) FROM uploads WHERE id = ?1)"
        " + (SELECT count(secret) FROM deliveries WHERE upload = ?1)"
    )
    return await journal._readers.run(lambda c: int(c.execute(question, (upload,)).fetchone()[0]))


# Looking only ---------------------------------------------------------------------------------


async def test_a_reader_sees_what_the_running_daemon_committed(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    reader = SqliteJournal.open_readonly(tmp_path)
    for number in range(5):
        made = await processing(journal, f"t{number}")
        assert (await reader.counts())[UploadState.PROCESSING] == number + 1
        assert await reader.find(f"t{number}") == made
    upload = await journal.find("t4")
    assert (await reader.uploads(None, None, 1)) == [upload]
    assert (await reader.details(upload.id)).upload == upload
    assert (await reader.report_counts())["pending"] == 10


async def test_a_reader_without_a_daemon_makes_and_changes_nothing(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        upload = await processing(journal)
        await journal.delivered(upload.id, 0, stored_object(), attempt(), 120.0)
    (tmp_path / KEY_FILE).unlink()
    before = _contents(tmp_path)
    reader = SqliteJournal.open_readonly(tmp_path)
    assert (await reader.find("t1")).id == upload.id
    assert len((await reader.details(upload.id)).deliveries) == 1
    assert _contents(tmp_path) == before


async def test_a_reader_reads_a_read_only_directory(tmp_path: Path) -> None:
    await (await SqliteJournal.open(tmp_path)).aclose()
    with read_only(tmp_path):
        assert sum((await SqliteJournal.open_readonly(tmp_path).counts()).values()) == 0


async def test_without_a_journal_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no daemon has used it"):
        SqliteJournal.open_readonly(tmp_path)
    (tmp_path / "journal.sqlite").touch()
    with pytest.raises(NotFoundError, match="no daemon has used it"):
        await SqliteJournal.open_readonly(tmp_path).counts()
    assert list(_contents(tmp_path)) == ["journal.sqlite"]


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
