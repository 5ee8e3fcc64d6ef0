"""The oracle itself: it finds each thing that can be wrong, and nothing where all is right."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.stores import Folder
from tests.peers.traces import check_processes, spooled

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

KIB = 1024
STUDY = str(uuid.uuid4())
SECRET = "a-password-of-this-test"


@dataclass(frozen=True)
class Ended:
    """A daemon that has done its work and stopped, and all that it left."""

    scene: Scene
    daemon: Dropoffd
    api: ReferenceServer
    directory: Path

    def object(self) -> Path:
        """Something in the store."""
        return next(path for path in (self.directory / "store").rglob("*") if path.is_file())

    def receipt(self) -> Path:
        return next((self.daemon.state / "receipts").iterdir())

    def journal(self, change: str) -> None:
        """Have its journal say otherwise."""
        path = self.daemon.state / "journal.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as journal, journal:
            journal.execute(change)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    directory = tmp_path_factory.mktemp("oracle")
    recipient = Recipient(directory)
    (directory / "api").mkdir()
    store = directory / "world" / "store"
    store.mkdir(parents=True)
    study = recipient.study(STUDY, ["local"])
    config = f'[destinations.local]\ntype = "directory"\ndirectory = "{store}"\n'
    scene = Scene(
        directory / "world",
        STUDY,
        recipient,
        {"local": Folder(store)},
        config,
        {"DROPOFF_LOCAL_PASSWORD": SECRET},
    )
    scene.lay(100 * KIB, 1, told=True)
    with ReferenceServer(directory / "api", study, path="/") as api:
        with scene.daemon(api.api.url) as daemon:
            daemon.wait_until_over(2, 30)
            daemon.wait_for(lambda: not spooled(daemon), 30, "the spool is empty")
            scene.watch(daemon)
            with pytest.raises(AssertionError, match="as argument"):
                check_processes(daemon, ["daemon"])
            with pytest.raises(AssertionError, match="a child, holds a secret"):
                check_processes(daemon, ["PATH="])
            assert daemon.stop() == 0
        yield Ended(scene, daemon, api, directory / "world")


@pytest.fixture
def ended(whole: Ended, tmp_path: Path) -> Iterator[Ended]:
    """All of it, to be spoiled: it is put back afterwards."""
    shutil.copytree(whole.directory, tmp_path / "before")
    yield whole
    shutil.rmtree(whole.directory)
    shutil.copytree(tmp_path / "before", whole.directory)


def test_where_all_is_right_it_finds_nothing(whole: Ended) -> None:
    verdict = whole.scene.judge(whole.daemon, whole.api)
    assert str(verdict) == "2 uploads: 0 lost, 0 twice, 0 orphans, 0 otherwise wrong"
    verdict.hold()


def _cut(ended: Ended) -> None:
    path = ended.object()
    path.write_bytes(path.read_bytes()[:-100])


def _lie(ended: Ended) -> None:
    path = ended.receipt()
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"size": 7}))


def _break_chain(ended: Ended) -> None:
    path = ended.daemon.state / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"by":"dropoffd"', b'"by":"somebody"', 1))


def _tell(ended: Ended, path: Path, text: str) -> None:
    del ended
    with path.open("a") as file:
        file.write(text)


def _lay_again(ended: Ended) -> None:
    path = ended.object()
    shutil.copy(path, path.with_name(f"again-{path.name}"))


FAULTS: dict[str, tuple[Callable[[Ended], object], str]] = {
    "an object is gone": (lambda e: e.object().unlink(), "LostError"),
    "an object is cut": (_cut, "other bytes|Error"),
    "an object is there twice": (_lay_again, "TwiceError"),
    "a delivery was begun and not ended": (
        lambda e: e.object().with_name("x.dropoffd-part").touch(),
        "OrphanError: begun and not ended",
    ),
    "a receipt is gone": (lambda e: e.receipt().unlink(), "receipts differ"),
    "a receipt lies": (_lie, "receipts differ|AssertionError"),
    "a receipt was not written to its end": (
        lambda e: e.receipt().with_name(".x.json.tmp").touch(),
        "OrphanError: left behind",
    ),
    "a hook's file is left": (
        lambda e: (e.daemon.spool / "failed" / "x.json").touch(),
        "OrphanError: left behind",
    ),
    "a source is left": (lambda e: (e.daemon.uploads / "x").touch(), "OrphanError: left behind"),
    "a session key is kept": (
        lambda e: e.journal("UPDATE uploads SET secret = x'00'"),
        "secrets are kept",
    ),
    "a report waits": (lambda e: e.journal("UPDATE reports SET status = 'pending'"), "wait"),
    "the REST API was told otherwise": (
        lambda e: e.journal("UPDATE reports SET body = json_set(body, '$.received', 0)"),
        "was told otherwise",
    ),
    "the journal does not know an upload": (
        lambda e: e.journal("UPDATE uploads SET tus_id = 'x' WHERE size = 1"),
        "LostError",
    ),
    "the journal knows an upload that nobody sent": (
        lambda e: e.journal("UPDATE uploads SET tus_id = 'x' WHERE size = 1"),
        "OrphanError: nobody sent",
    ),
    "an upload is not done": (
        lambda e: e.journal("UPDATE uploads SET state = 'stored' WHERE size = 1"),
        "is stored, not done",
    ),
    "a delivery is not over": (
        lambda e: e.journal("UPDATE deliveries SET reference = 'x'"),
        "deliveries are under way",
    ),
    "the audit chain is broken": (_break_chain, "the line before it|not the one"),
    "a secret is in the log": (lambda e: _tell(e, e.daemon.log, SECRET), "holds a secret"),
    "a secret is in a row": (
        lambda e: e.journal(f"UPDATE uploads SET error = '{SECRET}'"),  # noqa: S608 -- ours
        "holds a secret",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_whatever_is_wrong(ended: Ended, fault: str) -> None:
    spoil, told = FAULTS[fault]
    spoil(ended)
    with pytest.raises(AssertionError, match=told):
        ended.scene.check(ended.daemon, ended.api)
