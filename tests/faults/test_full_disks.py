"""Disks that are full or fail: what needs them waits, all else goes on, and nothing is lost.

Each test has a daemon of its own, and the oracle at its end. A disk that is really full is a small
tmpfs; other errors come from the kernel's own calls, refused for a while.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.intake.info import Info
from daemon.intake.spool import Spool, prepare
from tests.peers.disks import SmallDisk, failing
from tests.peers.dropoffd import Dropoffd
from tests.peers.intake import Recorded
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.stores import Folder
from tests.peers.tusd_files import pre_create

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

KIB, MIB = 1024, 1024**2
STUDY, BOTH = str(uuid.uuid4()), str(uuid.uuid4())
ERRORS = ("ENOSPC", "EDQUOT", "EFBIG", "EIO")
WRITES = ("write", "writev", "pwrite64", "pwritev")
PATIENCE = 40.0


T = TypeVar("T")


def at_once(cases: Iterable[T], run: Callable[[T], None]) -> None:
    """Have each case at the same time, as they mostly wait; what went wrong is told of all."""

    def told(case: T) -> str:
        try:
            run(case)
        except Exception as error:  # noqa: BLE001 -- each is told of below
            return f"{case}: {error!r}"
        return ""

    with ThreadPoolExecutor(5) as pool:
        wrong = [text for text in pool.map(told, cases) if text]
    assert not wrong, "\n\n".join(wrong)


class Stage:
    """The REST API that all share, and scenes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._recipient = Recipient(directory)
        (directory / "api").mkdir()
        studies = "".join(
            f'[destinations.{name}]\ntype = "directory"\ndirectory = "/x"\n'
            for name in ("one", "two")
        )
        studies += self._recipient.study(STUDY, ["one"])
        studies += self._recipient.study(BOTH, ["one", "two"])
        self.api = ReferenceServer(directory / "api", studies, path="/")

    def scene(self, *, study: str = STUDY, more: str = "") -> Scene:
        """A world for one daemon; its destinations are ``one`` and perhaps ``two``."""
        place = self._directory / uuid.uuid4().hex[:12]
        stores = {}
        tables = [f"[pipeline]\nworkers = 1\n{more}"]
        for name in ("one", "two") if study == BOTH else ("one",):
            stores[name] = Folder(place / name)
            (place / name).mkdir(parents=True)
            tables.append(
                f'[destinations.{name}]\ntype = "directory"\ndirectory = "{place / name}"\n'
            )
        return Scene(place, study, self._recipient, stores, "".join(tables), {})

    def end(self, scene: Scene, daemon: Dropoffd) -> None:
        """Everything went on by itself."""
        daemon.wait_until_over(len(scene.sent), PATIENCE)
        assert daemon.stop() == 0
        scene.check(daemon, self.api)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("full"))
    with stage.api:
        yield stage


def ask(daemon: Dropoffd) -> tuple[int, str | None]:
    """Ask as tusd does whether an upload may be: the answer's status, and its Retry-After."""
    answer = pre_create(daemon, 1, {"study": STUDY, "filename": "asked.bam"})
    if not answer.get("RejectUpload"):
        return 200, None
    refusal = answer["HTTPResponse"]
    return refusal["StatusCode"], refusal["Header"].get("Retry-After")


def is_paused(daemon: Dropoffd) -> bool:
    """Whether intake says that it waits for space."""
    return "intake pauses" in daemon.tail()


def refusals(daemon: Dropoffd, code: str) -> int:
    """Refused pre-creates in the metrics log that have this code."""
    lines = [line for line in daemon.metrics if line.get("hook") == "pre-create"]
    return sum(line.get("error_code") == code for line in lines)


def deliveries(daemon: Dropoffd, destination: str, outcome: str) -> list[dict[str, Any]]:
    """Lines of the metrics log about tries of a destination."""
    lines = [line for line in daemon.metrics if line["event"] == "delivery"]
    return [
        line for line in lines if (line["destination"], line["outcome"]) == (destination, outcome)
    ]


def waiting_reports(daemon: Dropoffd) -> int:
    """How many reports the REST API has not taken yet."""
    status = daemon.status()
    assert status is not None
    return int(status["reports"]["pending"])


def worker_pids(daemon: Dropoffd) -> list[int]:
    """Of its worker processes."""
    status = daemon.status()
    assert status is not None
    return [worker["pid"] for worker in status["workers"]]


# The journal ---------------------------------------------------------------------------------


def test_a_full_state_disk_pauses_intake_and_refuses_uploads_until_there_is_room(
    stage: Stage,
) -> None:
    scene = stage.scene()
    with (
        SmallDisk(scene.directory / "daemon" / "state", 2 * MIB) as disk,
        scene.daemon(stage.api.api.url) as daemon,
    ):
        scene.lay(100 * KIB)
        daemon.wait_until_over(1, PATIENCE)
        assert ask(daemon) == (200, None)
        disk.fill()
        # What the WAL has room for is still taken; then it is full.
        daemon.wait_for(lambda: ask(daemon) == (503, "30"), PATIENCE, "it refuses")
        scene.lay(100 * KIB, 0)
        daemon.wait_for(lambda: is_paused(daemon), PATIENCE, "intake pauses")
        assert daemon.running
        disk.free()
        daemon.wait_for(lambda: ask(daemon) == (200, None), PATIENCE, "it lets in")
        daemon.wait_until_over(3, PATIENCE)
        daemon.wait_for(lambda: refusals(daemon, "state_full") > 0, PATIENCE, "it is told")
        stage.end(scene, daemon)


def test_a_journal_that_cannot_be_written_or_synced_loses_nothing(stage: Stage) -> None:
    faults = [(error, WRITES) for error in ERRORS] + [("EIO", ("fsync", "fdatasync"))]
    at_once(faults, lambda fault: _journal_fails(stage, *fault))


def _journal_fails(stage: Stage, error: str, calls: Sequence[str]) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        scene.lay(100 * KIB)
        daemon.wait_until_over(1, PATIENCE)
        wal = daemon.state / "journal.sqlite-wal"
        with failing([daemon.pid], error, calls, wal):
            assert ask(daemon) == (503, "30")
            scene.lay(100 * KIB)
            daemon.wait_for(lambda: is_paused(daemon), PATIENCE, "intake pauses")
        assert refusals(daemon, "state_full") > 0
        daemon.wait_for(lambda: ask(daemon) == (200, None), PATIENCE, "it lets in")
        stage.end(scene, daemon)


def test_a_journal_that_cannot_be_read_for_a_while_does_not_end_the_service(stage: Stage) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        files = [daemon.state / f"journal.sqlite{end}" for end in ("", "-wal")]
        with failing([daemon.pid], "EIO", ["pread64"], *files):
            outdate_caches(files[0])
            scene.lay(100 * KIB)
            daemon.wait_for(
                lambda: "heartbeat_missed" in daemon.tail(), PATIENCE, "it is noticed, and no more"
            )
        stage.end(scene, daemon)


def test_a_daemon_that_starts_on_a_full_state_disk_says_to_try_again(stage: Stage) -> None:
    scene = stage.scene()
    with SmallDisk(scene.directory / "daemon" / "state", 256 * KIB) as disk:
        disk.fill()
        daemon = scene.daemon(stage.api.api.url)
        daemon.start(wait=False)
        assert daemon.wait(PATIENCE) != 78, daemon.tail()  # which systemd doesn't start again
        assert "state_full" in daemon.tail()
        disk.free()


def outdate_caches(journal: Path) -> None:
    """Commit there, so that whoever reads next has to read from the disk."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")


# Beside it in the state directory ------------------------------------------------------------


def test_receipts_that_find_no_room_hold_up_their_uploads_only_until_there_is_some(
    stage: Stage,
) -> None:
    scene = stage.scene()
    with SmallDisk(scene.directory / "daemon" / "state" / "receipts", 64 * KIB) as disk:
        disk.fill()
        with scene.daemon(stage.api.api.url) as daemon:
            scene.lay(100 * KIB)
            daemon.wait_for(lambda: "upload_postponed" in daemon.tail(), PATIENCE, "it waits")
            (waiting,) = daemon.listed()
            error = daemon.show(waiting["upload"])["error"]
            assert error["code"] == "state_full"
            assert "No space left" in error["message"]
            assert len(list(daemon.uploads.iterdir())) == 2, "the source is there"
            assert ask(daemon) == (200, None)
            disk.free()
            stage.end(scene, daemon)


def test_a_metrics_log_that_cannot_be_written_stops_no_upload_and_loses_no_line(
    stage: Stage,
) -> None:
    at_once(ERRORS, lambda error: _metrics_fail(stage, error))


def _metrics_fail(stage: Stage, error: str) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        scene.lay(0)
        daemon.wait_until_over(1, PATIENCE)
        with failing([daemon.pid], error, WRITES, daemon.state / "metrics.jsonl"):
            scene.lay(100 * KIB)
            daemon.wait_until_over(2, PATIENCE)
            daemon.wait_for(
                lambda: "metrics log can't be written" in daemon.tail(), PATIENCE, "it is told"
            )
        daemon.wait_for(lambda: len(deliveries(daemon, "one", "ok")) == 2, PATIENCE, "all lines")
        stage.end(scene, daemon)


def test_an_audit_log_that_cannot_be_written_is_waited_for(stage: Stage) -> None:
    at_once(ERRORS, lambda error: _audit_fails(stage, error))


def _audit_fails(stage: Stage, error: str) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        scene.lay(0)
        daemon.wait_until_over(1, PATIENCE)
        with failing([daemon.pid], error, WRITES, daemon.state / "audit.jsonl"):
            scene.lay(100 * KIB)
            daemon.wait_for(lambda: "upload_postponed" in daemon.tail(), PATIENCE, "it waits")
            assert "state_full" in daemon.tail()
            assert ask(daemon) == (200, None)
        stage.end(scene, daemon)
        entries = (daemon.state / "audit.jsonl").read_text().splitlines()
        assert len([line for line in entries if '"source_deleted"' in line]) == 2


# The spool -----------------------------------------------------------------------------------


def test_a_full_spool_fails_no_hook_and_hides_no_upload(stage: Stage) -> None:
    scene = stage.scene()
    with (
        SmallDisk(scene.directory / "daemon" / "spool", 64 * KIB) as disk,
        scene.daemon(stage.api.api.url) as daemon,
    ):
        daemon.wait_for((daemon.spool / "new").is_dir, PATIENCE, "the spool is there")
        hooks = scene.directory / "hooks"
        daemon.cli("install", "hooks", "--directory", str(hooks))
        disk.fill()
        scene.lay(100 * KIB)
        event = json.dumps({"Type": "post-finish", "Event": {"Upload": {"ID": "x" * 8000}}})
        done = subprocess.run([hooks / "post-finish"], input=event, text=True, check=False)
        assert done.returncode == 0
        daemon.wait_until_over(1, PATIENCE)
        assert [path for path in daemon.spool.rglob("*") if path.is_file()] == [
            daemon.spool / "ballast"
        ]
        disk.free()
        stage.end(scene, daemon)


def test_a_daemon_starts_though_its_spool_cannot_be_made(stage: Stage) -> None:
    scene = stage.scene()
    with SmallDisk(scene.directory / "daemon" / "spool", 64 * KIB) as disk:
        inodes = ["mount", "-o", "remount,nr_inodes=2", str(disk.place)]
        subprocess.run(inodes, check=True)
        (disk.place / "tmp").mkdir()
        with scene.daemon(stage.api.api.url) as daemon:
            scene.lay(100 * KIB)
            daemon.wait_until_over(1, PATIENCE)
            subprocess.run([*inodes[:2], "remount,nr_inodes=100", inodes[3]], check=True)
            daemon.wait_for((daemon.spool / "new").is_dir, PATIENCE, "it is made")
            stage.end(scene, daemon)


class Unasked:
    """A lookout that gets no hints."""

    async def check(self, tus_ids: Iterable[str]) -> None:
        raise AssertionError(tus_ids)

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        raise AssertionError(tus_id, upload)


async def test_a_spool_file_that_is_put_aside_on_a_full_disk_keeps_its_reason(
    tmp_path: Path,
) -> None:
    with SmallDisk(tmp_path / "spool", 64 * KIB) as disk:
        prepare(disk.place)
        (disk.place / "new" / "post-finish.1.json").write_text("no JSON")
        disk.fill()
        await Spool(disk.place, Unasked(), Recorded()).take()
        assert [path.name for path in disk.place.rglob("*.*")] == ["post-finish.1.json"]
        assert (disk.place / "new" / "post-finish.1.json").exists()
        disk.free()
        await Spool(disk.place, Unasked(), Recorded()).take()
        reason = disk.place / "failed" / "post-finish.1.json.reason"
        assert reason.read_text().startswith("spool_invalid")


# The directory destination -------------------------------------------------------------------


def test_a_full_destination_is_waited_for_and_its_neighbour_is_not_held_up(stage: Stage) -> None:
    scene = stage.scene(study=BOTH)
    with SmallDisk(scene.directory / "one", 1 * MIB) as disk:
        disk.fill(but=64 * KIB)
        with scene.daemon(stage.api.api.url) as daemon:
            scene.lay(100 * KIB, 300 * KIB)
            daemon.wait_for(
                lambda: len(deliveries(daemon, "two", "ok")) == 2, PATIENCE, "the neighbour"
            )
            daemon.wait_for(
                lambda: bool(deliveries(daemon, "one", "failed")), PATIENCE, "it is full"
            )
            told = {line["error_code"] for line in deliveries(daemon, "one", "failed")}
            assert told == {"destination_unreachable"}
            assert "No space left on device; the delivery goes on" in daemon.tail()
            assert len(list(daemon.uploads.iterdir())) == 4, "the sources are there"
            disk.free()
            stage.end(scene, daemon)


REASONS = {
    "EDQUOT": "Disk quota exceeded; the delivery goes on by itself once there is room",
    "ENOSPC": "No space left on device; the delivery goes on by itself once there is room",
    "EIO": "Input/output error",
}


def test_a_destination_that_cannot_be_written_is_tried_again(stage: Stage) -> None:
    at_once(REASONS, lambda error: _destination_fails(stage, error))


def _destination_fails(stage: Stage, error: str) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        with failing(worker_pids(daemon), error, ["pwrite64", "pwritev"]):
            scene.lay(100 * KIB)
            daemon.wait_for(lambda: "delivery_failed" in daemon.tail(), PATIENCE, "it fails")
            assert "destination_unreachable" in daemon.tail()
            assert REASONS[error] in daemon.tail()
        stage.end(scene, daemon)


def test_a_destination_that_takes_no_file_of_that_size_says_no_and_keeps_the_source(
    stage: Stage,
) -> None:
    scene = stage.scene()
    with scene.daemon(stage.api.api.url) as daemon:
        scene.lay(100 * KIB)
        daemon.wait_until_over(1, PATIENCE)
        with failing(worker_pids(daemon), "EFBIG", ["pwrite64", "pwritev"]):
            scene.lay(200 * KIB)
            daemon.wait_until_over(2, PATIENCE)
        assert "destination_refused" in daemon.tail()
        daemon.wait_for(lambda: not waiting_reports(daemon), PATIENCE, "it is told")
        assert daemon.stop() == 0
        scene.check(daemon, stage.api, failing=[scene.sent[-1].tus_id])
        daemon.start()
        daemon.cli("retry", "--failed")
        daemon.wait_for(lambda: not list(daemon.uploads.iterdir()), PATIENCE, "it is retried")
        daemon.wait_until_over(2, PATIENCE)
        assert daemon.stop() == 0
