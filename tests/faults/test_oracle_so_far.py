"""The oracle where a daemon was killed amid its work: it finds what is lost, twice, or a lie."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.load import folder, lay, stored_in, study_named, study_of
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence, Sent, judge
from tests.peers.so_far import judge_so_far
from tests.peers.stores import Folder

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

HERE, AWAY = study_named(0), study_named(1)
CONFIG = (
    folder("local", "store")
    + folder("away", "away")
    + study_of(0, ["local"])
    + study_of(1, ["away"])
)


@dataclass(frozen=True)
class Killed:
    """A daemon that died while some of its uploads were stored and others waited."""

    daemon: Dropoffd
    sent: Sequence[Sent]

    @property
    def evidence(self) -> Evidence:
        stores = {name: Folder(self.daemon.directory / name) for name in ("store", "away")}
        named = {"local": stores["store"], "away": stores["away"]}
        bound = {HERE: ["local"], AWAY: ["away"]}
        return Evidence(self.daemon, self.sent, None, named, Clear(), bound=bound)

    @property
    def object(self) -> Path:
        """Of one that is stored."""
        return next((self.daemon.directory / "store").rglob("*.txt"))

    @property
    def waiting(self) -> Path:
        """The source of one that is not."""
        return self.daemon.uploads / "away-1"

    def journal(self, change: str) -> None:
        """Have its journal say otherwise."""
        path = self.daemon.state / "journal.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as journal, journal:
            journal.execute(change)

    def lie(self) -> None:
        """A receipt tells of another digest, in its file and in the journal."""
        row = "json_set(receipt, '$.digest', json('{\"sha256\": \"00\"}'))"
        self.journal(f"UPDATE uploads SET receipt = {row} WHERE receipt IS NOT NULL")  # noqa: S608 -- ours
        for path in (self.daemon.state / "receipts").iterdir():
            path.write_text(
                json.dumps(json.loads(path.read_bytes()) | {"digest": {"sha256": "00"}})
            )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("so_far") / "world"
    daemon = Dropoffd(directory, CONFIG)
    (directory / "store").mkdir()
    sent = [
        *lay(daemon.uploads, ["here-1", "here-2"], HERE),
        *lay(daemon.uploads, ["away-1", "away-2"], AWAY),
    ]
    with daemon:
        daemon.wait_for(lambda: len(stored_in(directory / "store")) == 2, 30, "some are stored")
        daemon.wait_for(lambda: len(list(daemon.uploads.iterdir())) == 4, 30, "and done")
        daemon.wait_for(lambda: _done(daemon) == 2, 30, "which is known")
        daemon.kill()
    return Killed(daemon, sent)


def _done(daemon: Dropoffd) -> int:
    status = daemon.status()
    return 0 if status is None else int(status["uploads"]["done"])


@pytest.fixture
def killed(whole: Killed, tmp_path: Path) -> Iterator[Killed]:
    """All of it, to be spoiled: it is put back afterwards."""
    directory = whole.daemon.directory
    ignored = shutil.ignore_patterns("*.sock")
    shutil.copytree(directory, tmp_path / "before", ignore=ignored)
    yield whole
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "before", directory)


def test_where_nothing_is_lost_it_finds_nothing(whole: Killed) -> None:
    verdict = judge_so_far(whole.evidence)
    assert str(verdict) == "4 uploads: 0 lost, 0 twice, 0 orphans, 0 otherwise wrong"
    verdict.hold()


def test_what_is_not_over_is_not_taken_for_that(whole: Killed) -> None:
    with pytest.raises(AssertionError, match=r"LostError.*has no receipt"):
        judge(whole.evidence).hold()


def test_one_that_nobody_took_in_yet_lies_where_it_was_sent(killed: Killed) -> None:
    sent = [*killed.sent, *lay(killed.daemon.uploads, ["new"], HERE)]
    judge_so_far(Killed(killed.daemon, sent).evidence).hold()


def _copy(path: Path, name: str) -> None:
    shutil.copy(path, path.with_name(name))


FAULTS: dict[str, tuple[Callable[[Killed], object], str]] = {
    "an object is gone": (lambda k: k.object.unlink(), "LostError"),
    "an object is another one": (lambda k: k.object.write_text("other"), "LostError: other bytes"),
    "an object is there twice": (lambda k: _copy(k.object, "again"), "TwiceError"),
    "an object is nobody's": (
        lambda k: k.object.rename(k.daemon.directory / "store" / "nobody"),
        "OrphanError: nobody knows of",
    ),
    "something was begun for what is done": (
        lambda k: k.object.with_name("x.dropoffd-part").touch(),
        "OrphanError: begun and not ended",
    ),
    "a waiting source is gone": (lambda k: k.waiting.unlink(), "LostError"),
    "a waiting source is another one": (lambda k: k.waiting.write_text("other"), "LostError"),
    "the .info of a waiting source is gone": (
        lambda k: k.waiting.with_name("away-1.info").unlink(),
        "LostError",
    ),
    "the source of what is done is there": (
        lambda k: _copy(k.waiting, "here-1"),
        "OrphanError: .* is done, and its source is there",
    ),
    "a source is nobody's": (lambda k: _copy(k.waiting, "x"), "OrphanError: nobody sent"),
    "what waits is told to be done": (
        lambda k: k.journal("UPDATE uploads SET state = 'done' WHERE tus_id = 'away-1'"),
        "done without a receipt",
    ),
    "what waits has failed": (
        lambda k: k.journal("UPDATE uploads SET state = 'failed' WHERE tus_id = 'away-1'"),
        "is failed",
    ),
    "a receipt is gone": (
        lambda k: next((k.daemon.state / "receipts").iterdir()).unlink(),
        "LostError: the receipt",
    ),
    "a receipt lies": (lambda k: k.lie(), "'sha256': '00'"),
    "there is a receipt of nothing": (
        lambda k: (k.daemon.state / "receipts" / "x.json").write_text("{}"),
        "receipts of what is not stored",
    ),
    "a deletion is not on record": (
        lambda k: (k.daemon.state / "audit.jsonl").unlink(),
        "other deletions are told",
    ),
    "what is done keeps a secret": (
        lambda k: k.journal("UPDATE uploads SET secret = x'00' WHERE state = 'done'"),
        "secrets are kept",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_whatever_is_wrong_so_far(killed: Killed, fault: str) -> None:
    spoil, told = FAULTS[fault]
    spoil(killed)
    with pytest.raises(AssertionError, match=told):
        judge_so_far(killed.evidence).hold()
