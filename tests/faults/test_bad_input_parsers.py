"""Contract, section 7: whatever comes in, a parser reads it or refuses it with its code."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon import config
from daemon.broker import endpoints, plans
from daemon.config_file import locate
from daemon.errors import ConfigError, InfoError, PlanError, SpoolError, StudyRefusedError
from daemon.intake.events import parse_event
from daemon.intake.info import canonical_uuid, parse
from daemon.intake.scan import Look, Outcome, look
from daemon.journal.model import Sighting
from daemon.observe.lines import encode, harmless
from daemon.opening import open_source
from daemon.processing.names import MAX_FILENAME, object_name, safe_filename
from daemon.settings import Destination, Uploads
from pipeline.destinations import below, webdav_urls
from pipeline.envelope import by_format
from pipeline.envelope.keyfiles import read_secret
from pipeline.errors import (
    DestinationRefusedError,
    DropoffError,
    EnvelopeError,
    RecipientError,
    SourceError,
    SourceUnsafeError,
)
from pipeline.messages import DestinationSpec, EnvelopeFormat
from tests.faults.cases import calls, configs, info, keys, names, spool
from tests.faults.cases import plans as said

KNOWN = {
    "archive": Destination(
        spec=DestinationSpec(name="archive", type="s3", endpoint="https://s3.org", bucket="a")
    )
}
SLOW = 5.0
"""Seconds that no input may take, on a machine that does other things as well."""


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SLOW


def code_of(error: DropoffError | None) -> str:
    return "" if error is None else error.code


def test_the_table_is_as_large_as_is_said() -> None:
    tables: list[tuple[object, ...]] = [
        info.CASES, spool.CASES, said.SHAPES, said.PATHS, said.ENDPOINTS, names.FILES,
        names.STEPS, names.HOSTILE_METADATA, keys.CRYPT4GH, keys.AGE, keys.SECRETS,
        configs.CASES, calls.CASES,
    ]  # fmt: skip
    for table in tables:
        assert len(set(map(repr, table))) == len(table)
    assert sum(map(len, tables)) >= 700


@pytest.mark.parametrize("case", info.CASES, ids=lambda case: case.name)
def test_an_info_file_is_read_or_refused(case: info.InfoCase, tmp_path: Path) -> None:
    (tmp_path / f"{case.stem}.info").parent.mkdir(exist_ok=True)
    (tmp_path / f"{case.stem}.info").write_bytes(case.text)
    (tmp_path / case.stem).write_bytes(b"x")
    found = look(Uploads(directory=tmp_path, info_directory=tmp_path), case.stem)
    assert code_of(_meets(found, tmp_path)) == case.code
    if case.code != "info_invalid":
        parse(case.text, case.stem)
    else:
        with pytest.raises(InfoError):
            parse(case.text, case.stem)


def _meets(found: Look, directory: Path) -> DropoffError | None:
    """What stands in the way of a look's upload, as processing would meet it."""
    if isinstance(found.found, InfoError):
        return found.found
    assert isinstance(found.found, Sighting)
    try:
        open_source(directory, found.found.path).close()
    except DropoffError as error:
        return error
    return None


@pytest.mark.parametrize("case", spool.CASES, ids=lambda case: case.name)
def test_a_spool_file_is_read_or_refused(case: spool.SpoolCase) -> None:
    error: SpoolError | None = None
    try:
        parse_event(case.text, case.file.partition(".")[0])
    except SpoolError as refused:
        error = refused
    assert code_of(error) == case.code


def test_a_hook_s_id_that_is_longer_than_any_path_is_nobody_s(tmp_path: Path) -> None:
    """Looking for it raised ENAMETOOLONG, and its hook stayed first in the spool for ever."""
    uploads = Uploads(directory=tmp_path, info_directory=tmp_path)
    assert look(uploads, "long/" * 2000 + "x").found is Outcome.GONE


def test_a_hook_s_id_that_no_file_can_have_is_no_problem_to_keep(tmp_path: Path) -> None:
    """Each of them stayed in the list of problems for ever, and anybody could think of more."""
    (tmp_path / "file").write_bytes(b"x")
    uploads = Uploads(directory=tmp_path, info_directory=tmp_path)
    for tus_id in ("l" * 400, "file/below", "file/deep/er"):
        assert look(uploads, tus_id).found is Outcome.GONE


@pytest.mark.parametrize("case", said.SHAPES, ids=lambda case: case.name)
def test_a_plan_is_read_or_refused(case: said.PlanCase) -> None:
    error: DropoffError | None = None
    try:
        plans.parse(case.text, said.STUDY, KNOWN, said.ALLOWED)
    except (PlanError, StudyRefusedError) as refused:
        error = refused
    told = "" if error is None else error.message
    assert not told or told.isprintable()
    assert len(told) < 1000
    assert code_of(error) == case.code


@pytest.mark.parametrize("path", said.PATHS)
def test_a_plan_s_path_that_leaves_or_is_unclear_is_refused(path: str) -> None:
    named = f'{{"use":"archive","path":{_json(path)}}}'
    described = (
        '{"type":"s3","endpoint":"https://s3.example.org","bucket":"bucket","access_key":"a",'
        f'"secret_key":"b","path":{_json(path)}}}'
    )
    for place in (named, described):
        text = f'{{"encrypt":"none","destinations":[{place}]}}'.encode()
        with pytest.raises(PlanError):
            plans.parse(text, said.STUDY, KNOWN, said.ALLOWED)


@pytest.mark.parametrize("case", said.ENDPOINTS, ids=lambda case: case.name)
def test_only_an_endpoint_that_is_allowed_is_taken(case: said.EndpointCase) -> None:
    assert endpoints.allowed(case.endpoint, said.ALLOWED) is case.allowed
    assert not endpoints.allowed(case.endpoint, ())


def _json(text: str) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


@pytest.mark.parametrize("case", names.FILES, ids=lambda case: case.name)
def test_a_file_s_name_becomes_one_harmless_step(case: names.NameCase) -> None:
    safe = safe_filename(case.said)
    assert safe == case.safe
    assert len(safe.encode()) <= MAX_FILENAME
    assert below.components(safe) == ([], safe)
    key = object_name(
        "{study}/{upload}/{filename}", study="s", upload="u", filename=case.said, tus_id="t"
    )
    assert key == f"s/u/{case.safe}"
    assert webdav_urls.object_url("https://dav/", key).startswith("https://dav/s/u/")
    assert webdav_urls.object_url("https://dav/", key).isprintable()


@pytest.mark.parametrize("case", names.FILES, ids=lambda case: case.name)
def test_a_file_s_name_does_nothing_to_terminal_or_log(case: names.NameCase) -> None:
    assert harmless(case.said).isprintable()
    line = encode({"event": "x", "filename": case.said, case.said: 1})
    assert line.isascii()
    assert line.isprintable()


@pytest.mark.parametrize("case", names.HOSTILE_METADATA, ids=lambda case: case.name)
def test_only_a_uuid_is_a_study(case: names.NameCase) -> None:
    assert (canonical_uuid(case.said) or "") == case.safe


@pytest.mark.parametrize("name", names.STEPS)
def test_a_name_that_leads_elsewhere_is_taken_by_no_destination(name: str) -> None:
    with pytest.raises(DestinationRefusedError):
        below.components(name)
    with pytest.raises(DestinationRefusedError):
        webdav_urls.object_url("https://dav/", name)


def check_recipient(kind: EnvelopeFormat, text: str) -> None:
    with pytest.raises(RecipientError) as refused:
        by_format(kind).make((text,))
    assert refused.value.code == "recipient_invalid"
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300
    assert "GFPYYSJZGFPYYSJZ" not in refused.value.message.upper()


@pytest.mark.parametrize("case", keys.CRYPT4GH, ids=lambda case: case.name)
def test_no_recipient_of_crypt4gh(case: keys.KeyCase) -> None:
    check_recipient("crypt4gh", case.text)


@pytest.mark.parametrize("case", keys.AGE, ids=lambda case: case.name)
def test_no_recipient_of_age(case: keys.KeyCase) -> None:
    check_recipient("age", case.text)


@pytest.mark.parametrize("passphrase", [b"", b"a passphrase"], ids=["none", "one"])
@pytest.mark.parametrize("case", keys.SECRETS, ids=lambda case: case.name)
def test_no_secret_key(case: keys.KeyCase, passphrase: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(case.text)
    with pytest.raises(EnvelopeError) as refused:
        read_secret(tmp_path / "key", lambda: passphrase)
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("case", configs.CASES, ids=lambda case: case.name)
def test_a_config_is_read_or_refused(case: configs.ConfigCase, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(case.text)
    told = ""
    try:
        config.load(tmp_path / "config.toml", {})
    except ConfigError as error:
        told = error.message
    assert case.said.lower() in told.lower()
    assert bool(told) is bool(case.said)
    assert all(line.isprintable() for line in told.splitlines())
    assert "hush" not in told.lower().replace("age-secret-key-1hush", "")
    assert len(told) < 5000


def test_a_long_line_of_blanks_in_a_config_is_no_work() -> None:
    """Finding keys took the third power of a line's length: an hour for 20,000 blanks."""
    began = time.process_time()
    locate("\n".join(" " * 20_000 + "x" for _ in range(10)))
    assert time.process_time() - began < 1


def test_what_no_name_breaks_is_tried_with_all_of_them_at_once(tmp_path: Path) -> None:
    """A tus id of every hostile step: opening refuses each, whatever lies beside."""
    (tmp_path / "x").write_bytes(b"x")
    for step in names.STEPS:
        with contextlib.suppress(DropoffError):
            open_source(tmp_path, step).close()
            pytest.fail(f"{step!r} was opened")
    for step in ("", "/", "..", "../x", "x/..", "a\0b"):
        with pytest.raises(SourceUnsafeError):
            open_source(tmp_path, step)


def test_a_file_swapped_between_look_and_open_gives_nothing_away(tmp_path: Path) -> None:
    """Somebody who may write beside it swaps it for links and a FIFO, all the time."""
    uploads, outside = tmp_path / "uploads", tmp_path / "outside"
    (uploads / "study").mkdir(parents=True)
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    place, over = uploads / "study" / "x", threading.Event()

    def swap() -> None:
        new = uploads / "study" / "new"
        makers: list[Callable[[], object]] = [
            lambda: new.write_bytes(b"upload"),
            lambda: new.symlink_to(outside / "x"),
            lambda: os.mkfifo(new),
            lambda: new.hardlink_to(outside / "x"),
        ]
        while not over.is_set():
            for make in makers:
                make()
                new.replace(place)
            (uploads / "study").rename(uploads / "aside")
            (uploads / "study").symlink_to(outside)
            (uploads / "study").unlink()
            (uploads / "aside").rename(uploads / "study")

    swapping = threading.Thread(target=swap)
    swapping.start()
    read: set[bytes] = set()
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until or not read:
            with contextlib.suppress(SourceError), open_source(uploads, "study/x") as source:
                read.add(source.read(100))
            assert time.monotonic() < until + 20
    finally:
        over.set()
        swapping.join()
    assert read <= {b"upload", b""}
