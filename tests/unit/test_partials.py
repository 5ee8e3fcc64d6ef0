"""Partial uploads go with the last upload that was put together from them, and never before."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from daemon.intake.finder import Finder
from daemon.intake.partials import Partials
from daemon.intake.scan import look
from daemon.journal.model import Error, Sighting, Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings, Uploads
from daemon.sources import FileSources
from pipeline.errors import SourceUnsafeError
from tests.peers.intake import STUDY, Recorded, settings_in
from tests.peers.journals import OTHER_STUDY, attempt, envelope, new_delivery, stored_object

FAILED = Error(code="destination_refused", message="no", retryable=False)


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return settings_in(tmp_path).uploads


def lay(uploads: Uploads, tus_id: str, study: str | None = STUDY, **fields: object) -> None:
    """An upload as tusd leaves it; a partial unless told otherwise."""
    path = uploads.directory / tus_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    info = {
        "ID": tus_id,
        "Size": 5,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": {} if study is None else {"study": study},
        "IsPartial": True,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {"Type": "filestore", "Path": str(path)},
    }
    Path(f"{path}.info").write_text(json.dumps(info | fields))


def left(uploads: Uploads) -> set[str]:
    """The files that are still there."""
    root = uploads.directory
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


async def put_together(
    uploads: Uploads, journal: SqliteJournal, tus_id: str, *partials: str
) -> Upload:
    """A whole, sighted: data and `.info` of its own."""
    lay(uploads, tus_id, IsPartial=False, IsFinal=True, PartialUploads=partials)
    found = look(uploads, tus_id).found
    assert isinstance(found, Sighting)
    return await journal.sight(found, 100.0)


async def store(journal: SqliteJournal, upload: Upload, now: float = 104.0) -> Upload:
    await journal.announced(upload.id, None)
    await journal.plan(upload.id, envelope(), [new_delivery()], upload.identity, 101.0)
    await journal.attempt(upload.id, 0, 102.0)
    await journal.delivered(upload.id, 0, stored_object(), attempt(), 103.0)
    await journal.stored(upload.id, {"version": 1}, now)
    return await journal.upload(upload.id)


async def clean_up(uploads: Uploads, journal: SqliteJournal, upload: Upload) -> None:
    """What processing does with a stored upload in the end."""
    partials = Partials(uploads, journal)
    await FileSources(uploads.info_directory, (), partials.remove).remove(upload)
    await journal.done(upload.id, 200.0)


async def test_partials_go_with_the_upload_that_was_put_together_from_them(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "a")
    lay(uploads, "deep/b", study=None)
    whole = await put_together(uploads, journal, "whole", "a", "deep/b")
    await clean_up(uploads, journal, await store(journal, whole))
    assert left(uploads) == set()


@pytest.mark.parametrize("gone", [(), ("a",), ("a", "a.info"), ("whole", "whole.info", "b")])
async def test_after_a_crash_in_between_the_clean_up_ends_what_it_began(
    uploads: Uploads, journal: SqliteJournal, gone: tuple[str, ...]
) -> None:
    lay(uploads, "a")
    lay(uploads, "b")
    whole = await store(journal, await put_together(uploads, journal, "whole", "a", "b"))
    for name in gone:
        (uploads.directory / name).unlink()
    await clean_up(uploads, journal, whole)
    assert left(uploads) == set()


async def test_a_partial_of_two_uploads_stays_until_both_are_done(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    for name in ("a", "both", "b"):
        lay(uploads, name)
    first = await put_together(uploads, journal, "first", "a", "both")
    second = await put_together(uploads, journal, "second", "both", "b")
    await clean_up(uploads, journal, await store(journal, first))
    assert left(uploads) == {"both", "both.info", "b", "b.info", "second", "second.info"}
    await clean_up(uploads, journal, await store(journal, second))
    assert left(uploads) == set()


@pytest.mark.parametrize("first_cleaned", ["earlier", "later"])
async def test_of_two_that_are_stored_the_later_one_takes_what_they_share(
    uploads: Uploads, journal: SqliteJournal, first_cleaned: str
) -> None:
    lay(uploads, "both")
    earlier = await put_together(uploads, journal, "earlier", "both")
    later = await put_together(uploads, journal, "later", "both")
    earlier, later = await store(journal, earlier, 104.0), await store(journal, later, 105.0)
    order = (earlier, later) if first_cleaned == "earlier" else (later, earlier)
    await clean_up(uploads, journal, order[0])
    assert ("both" in left(uploads)) == (first_cleaned == "earlier")
    await clean_up(uploads, journal, order[1])
    assert left(uploads) == set()


async def test_a_failed_upload_keeps_its_partials_until_it_is_given_up(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "both")
    first = await put_together(uploads, journal, "first", "both")
    second = await put_together(uploads, journal, "second", "both")
    await journal.fail(second.id, FAILED, 101.0)
    await clean_up(uploads, journal, await store(journal, first))
    assert "both" in left(uploads)
    await journal.discard(second.id, 102.0)
    await Partials(uploads, journal).remove(second)
    assert "both" not in left(uploads)


async def test_what_was_kept_for_an_upload_that_is_taken_back_goes_then(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    for name in ("both", "alone"):
        lay(uploads, name)
    first = await put_together(uploads, journal, "first", "both")
    await put_together(uploads, journal, "second", "both", "alone")
    await clean_up(uploads, journal, await store(journal, first))
    for name in ("second", "second.info"):
        (uploads.directory / name).unlink()
    await Finder(uploads, journal, Recorded()).terminated("second")
    # Nothing was ever made of the other one: it is left to its server.
    assert left(uploads) == {"alone", "alone.info"}


async def test_what_a_crash_left_of_one_taken_back_goes_with_the_first_scan(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "both")
    first = await put_together(uploads, journal, "first", "both")
    second = await put_together(uploads, journal, "second", "both")
    await clean_up(uploads, journal, await store(journal, first))
    for name in ("second", "second.info"):
        (uploads.directory / name).unlink()
    await journal.terminate(second.directory, second.tus_id, 105.0)
    await Finder(uploads, journal, Recorded())._scan()
    assert left(uploads) == set()


async def test_where_nothing_is_ever_deleted_partials_stay_as_well(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    uploads = msgspec.structs.replace(uploads, delete_after=None)
    lay(uploads, "both")
    first = await put_together(uploads, journal, "first", "both")
    second = await put_together(uploads, journal, "second", "both")
    await store(journal, first)
    await journal.done(first.id, 106.0)
    await journal.terminate(second.directory, second.tus_id, 105.0)
    await Finder(uploads, journal, Recorded())._scan()
    assert "both" in left(uploads)


async def test_partials_that_nothing_was_made_of_are_left_alone(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "lonely")
    lay(uploads, "a")
    whole = await put_together(uploads, journal, "whole", "a")
    await clean_up(uploads, journal, await store(journal, whole))
    assert left(uploads) == {"lonely", "lonely.info"}


async def test_what_is_no_partial_of_this_study_is_left_alone_whoever_names_it(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "upload", IsPartial=False)
    lay(uploads, "foreign", study=OTHER_STUDY)
    lay(uploads, "torn")
    (uploads.directory / "torn.info").write_text('{"ID": ')
    named = ("upload", "foreign", "torn", "missing", "whole")
    whole = await put_together(uploads, journal, "whole", *named)
    before = left(uploads) - {"whole", "whole.info"}
    await clean_up(uploads, journal, await store(journal, whole))
    assert left(uploads) == before


async def test_a_link_in_place_of_a_partial_is_left_alone_and_holds_nothing_up(
    uploads: Uploads, journal: SqliteJournal, tmp_path: Path
) -> None:
    lay(uploads, "a")
    lay(uploads, "b")
    (tmp_path / "secret").write_text("not to be touched")
    (uploads.directory / "a").unlink()
    (uploads.directory / "a").symlink_to(tmp_path / "secret")
    whole = await put_together(uploads, journal, "whole", "a", "b")
    await clean_up(uploads, journal, await store(journal, whole))
    assert left(uploads) == {"a", "a.info"}
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("hostile", ["../secret", "/etc/passwd", "a/../../secret", "", ".", "a//b"])
async def test_a_partials_name_that_leaves_the_directory_is_source_unsafe_and_removes_nothing(
    uploads: Uploads, journal: SqliteJournal, tmp_path: Path, hostile: str
) -> None:
    outside = msgspec.structs.replace(uploads, directory=tmp_path, info_directory=tmp_path)
    lay(outside, "secret")
    lay(uploads, "a")
    whole = await put_together(uploads, journal, "whole", "a", hostile)
    before = left(outside)
    with pytest.raises(SourceUnsafeError):
        await FileSources(uploads.info_directory).open(whole)
    await Partials(uploads, journal)._remove(whole, [hostile])
    assert left(outside) == before


async def test_the_journal_hears_at_once_of_an_upload_that_is_being_put_together(
    uploads: Uploads, journal: SqliteJournal
) -> None:
    lay(uploads, "growing", IsPartial=False, IsFinal=True, PartialUploads=["a"], Size=10)
    await Finder(uploads, journal, Recorded()).check(["growing"])
    (found,) = await journal.uploads(None, None, 10)
    assert (found.state, found.partials) == (UploadState.RECEIVING, ("a",))


async def test_rustus_partials_go_from_where_rustus_put_them(
    tmp_path: Path, journal: SqliteJournal
) -> None:
    settings: Settings = settings_in(tmp_path)
    infos = tmp_path / "infos"
    infos.mkdir()
    uploads = msgspec.structs.replace(settings.uploads, info_directory=infos)
    (uploads.directory / "2026").mkdir()
    for tus_id, parts in (("p", None), ("w", ["p"])):
        path = uploads.directory / "2026" / tus_id
        path.write_bytes(b"12345")
        info = {
            "id": tus_id,
            "offset": 5,
            "length": 5,
            "path": str(path),
            "is_partial": parts is None,
            "is_final": parts is not None,
            "parts": parts,
            "storage": "file_storage",
            "metadata": {"study": STUDY},
        }
        (infos / f"{tus_id}.info").write_text(json.dumps(info))
    found = look(uploads, "w").found
    assert isinstance(found, Sighting)
    whole = await journal.sight(found, 100.0)
    await clean_up(uploads, journal, await store(journal, whole))
    assert left(uploads) == set()
    assert list(infos.iterdir()) == []
