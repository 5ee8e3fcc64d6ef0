"""Files are opened by walking to them, and only plain ones with one link."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.opening import identify, open_source, remove_source, sync_removal
from pipeline.errors import SourceError, SourceMissingError, SourceUnsafeError


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    directory = tmp_path / "uploads"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "file").write_bytes(b"top")
    (directory / "a" / "b" / "file").write_bytes(b"nested")
    (tmp_path / "secret").write_bytes(b"secret")
    return directory


@pytest.mark.parametrize(("path", "data"), [("file", b"top"), ("a/b/file", b"nested")])
def test_a_plain_file_is_opened_at_any_depth(uploads: Path, path: str, data: bytes) -> None:
    with open_source(uploads, path) as source:
        assert source.read(100) == data
        assert source.identity == identify(uploads, path)
        assert source.identity.size == len(data)


def test_the_descriptor_is_closed_at_the_end(uploads: Path) -> None:
    with open_source(uploads, "file") as source:
        fd = source.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_absolute_path_inside_is_opened(uploads: Path) -> None:
    open_source(uploads, str(uploads / "a/b/file")).close()


def test_an_absolute_path_is_opened_below_an_allowed_root_only(
    uploads: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnsafeError):
        open_source(uploads, str(tmp_path / "secret"))
    open_source(uploads, str(tmp_path / "secret"), [tmp_path]).close()


def test_a_root_is_no_prefix_of_names(uploads: Path) -> None:
    beside = uploads.with_name("uploads2")
    beside.mkdir()
    (beside / "file").touch()
    with pytest.raises(SourceUnsafeError):
        open_source(uploads, str(beside / "file"))


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "a/../file",
        "/etc/hostname",
        "",
        "/",
        ".",
        "a//b/file",
        "a/b/file/",
        "fi\0le",
        "n" * 300,
        "\udcff",
        "\ud800/file",
        "a",
        "file/below",
    ],
)
def test_a_path_that_is_none_is_refused(uploads: Path, path: str) -> None:
    with pytest.raises(SourceUnsafeError):
        open_source(uploads, path)


def _symlink(path: Path) -> None:
    target = path.with_name(path.name + ".target")
    path.rename(target)
    path.symlink_to(target)


def _hard_link(path: Path) -> None:
    path.with_name("other").hardlink_to(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("spoil", [_symlink, _hard_link, _fifo, _directory, _device, _socket])
def test_what_is_no_plain_file_with_one_link_is_refused(
    uploads: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(uploads / "a" / "b" / "file")
    with pytest.raises(SourceUnsafeError):
        open_source(uploads, "a/b/file")
    with pytest.raises(SourceUnsafeError):
        identify(uploads, "a/b/file")


def test_a_second_link_that_is_there_for_the_open_alone_is_noticed(
    uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after it there is one link, and it always is the same file."""
    really = os.open

    def opened_amid_links(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path != "file":
            return really(path, flags, dir_fd=dir_fd)
        time.sleep(0.02)  # file systems may count time by a few milliseconds
        second = tmp_path / "second"
        second.hardlink_to(uploads / "file")
        fd = really(path, flags, dir_fd=dir_fd)
        second.unlink()
        return fd

    monkeypatch.setattr(os, "open", opened_amid_links)
    with pytest.raises(SourceUnsafeError, match="links"):
        open_source(uploads, "file")


@pytest.mark.parametrize("part", ["a", "a/b"])
def test_a_symlink_in_the_middle_is_refused(uploads: Path, part: str) -> None:
    _symlink(uploads / part)
    with pytest.raises(SourceUnsafeError):
        open_source(uploads, "a/b/file")


def test_the_upload_directory_itself_may_be_a_symlink(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(uploads)
    open_source(tmp_path / "link", "file").close()


@pytest.mark.parametrize("path", ["missing", "a/missing/file"])
def test_what_is_gone_is_missing(uploads: Path, path: str) -> None:
    with pytest.raises(SourceMissingError):
        open_source(uploads, path)


def test_a_directory_that_is_not_there_says_nothing_of_the_upload(uploads: Path) -> None:
    shutil.rmtree(uploads)
    with pytest.raises(FileNotFoundError):
        open_source(uploads, "file")


def test_the_very_file_is_removed(uploads: Path) -> None:
    assert remove_source(uploads, "a/b/file", identify(uploads, "a/b/file"))
    assert not (uploads / "a/b/file").exists()


def test_removing_twice_is_fine(uploads: Path) -> None:
    identity = identify(uploads, "file")
    assert remove_source(uploads, "file", identity)
    assert remove_source(uploads, "file", identity)


def test_another_file_in_its_place_stays(uploads: Path) -> None:
    identity = identify(uploads, "file")
    (uploads / "new").write_bytes(b"new")
    (uploads / "new").replace(uploads / "file")
    assert not remove_source(uploads, "file", identity)
    assert (uploads / "file").read_bytes() == b"new"


def test_nothing_is_removed_through_a_symlink(uploads: Path) -> None:
    identity = identify(uploads, "a/b/file")
    _symlink(uploads / "a")
    with pytest.raises(SourceUnsafeError):
        remove_source(uploads, "a/b/file", identity)
    assert (uploads / "a.target/b/file").exists()


def test_a_removal_is_synced_where_it_was_and_nowhere_else(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink())
    )
    sync_removal(uploads, "a/b/file")
    sync_removal(uploads, "a/none/file")
    assert synced == [uploads / "a/b"]
    _symlink(uploads / "a")
    with pytest.raises(SourceUnsafeError):
        sync_removal(uploads, "a/b/file")


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True), (errno.ENOSPC, True)],
)
def test_a_removal_that_is_not_on_the_disk_is_told_where_it_could_be(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, told: bool
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no") if told else contextlib.nullcontext():
        sync_removal(uploads, "file")


@given(
    st.text(max_size=20)
    | st.lists(st.sampled_from(["..", ".", "", "a", "b", "secret"])).map("/".join)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_to_the_secret(uploads: Path, path: str) -> None:
    for attempt in (path, f"{uploads}/{path}"):
        try:
            with open_source(uploads, attempt) as source:
                assert source.read(100) in {b"top", b"nested"}
        except SourceError:
            pass


def test_another_s_file_whose_second_link_is_gone_after_the_open_is_refused(
    uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uploads / "file").write_bytes(b"upload")
    (tmp_path / "secret").write_bytes(b"secret")
    opened = os.open

    def swapping(name: str | Path, flags: int, **where: int) -> int:
        """While it is opened, the file is a link to another's, which is gone again at once."""
        if name != "file":
            return opened(name, flags, **where)
        (uploads / "file").unlink()
        (uploads / "file").hardlink_to(tmp_path / "secret")
        found = opened(name, flags, **where)
        (uploads / "file").unlink()
        return found

    monkeypatch.setattr("daemon.opening.os.open", swapping)
    with pytest.raises(SourceUnsafeError, match="replaced while it was opened"):
        open_source(uploads, "file")
