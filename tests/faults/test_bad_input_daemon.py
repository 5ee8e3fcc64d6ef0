"""Contract, section 7, at one real daemon: all of it at once, and every neighbour is delivered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.envelope import keys
from tests.faults.cases import calls, info, names, spool
from tests.peers import rows, traces
from tests.peers.dropoffd import Dropoffd
from tests.peers.oracle import Sent, check_delivered
from tests.peers.reference_api import ReferenceServer
from tests.peers.stores import Folder
from tests.peers.tusd import free_port

STUDY, CLOSED, SMALL, UNKNOWN, AGE = (
    f"{number}1111111-2222-4333-8444-555555555555" for number in range(1, 6)
)
STRANGE = [case for case in names.FILES if case.said.strip()]


class Scene:
    """The daemon, a REST API, and what lies in the upload directory and the spool."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pair = keys.crypt4gh_generate()
        (directory / "recipient.pub").write_text(self.pair.public)
        self.store = directory / "store"
        self.store.mkdir()
        (directory / "api").mkdir()
        self.api = ReferenceServer(directory / "api", self._studies(), path="/")
        self.port = free_port()
        self.sent: list[Sent] = []
        self.failing: dict[str, str] = {}
        """tus id → code, of uploads that fail."""
        self.broken: set[str] = set()
        """Stems of ``.info`` files that can't be read."""
        self.daemon: Dropoffd

    def _studies(self) -> str:
        whole = f'recipients = ["{self.directory}/recipient.pub"]\ndestinations = ["local"]\n'
        return "".join(
            f'[studies."{study}"]\nencrypt = "crypt4gh"\n{whole}{more}\n'
            for study, more in ((STUDY, ""), (CLOSED, "open = false"), (SMALL, 'max_size = "5B"'))
        )

    def make_daemon(self) -> Dropoffd:
        api = self.api.api
        self.daemon = Dropoffd(
            self.directory / "daemon",
            f'listen = "127.0.0.1:{self.port}"\n[destinations.local]\ntype = "directory"\n'
            f'directory = "{self.store}"\n',
            {
                "WEBHOOK_URL": api.url,
                "DROPOFF_API_HAWK_KEY": api.hawk_key,
                "DROPOFF_API_HAWK_SECRET": api.hawk_secret,
            },
        )
        return self.daemon

    def info(self, tus_id: str, size: int, metadata: dict[str, str], **more: object) -> None:
        fields = {"ID": tus_id, "Size": size, "Offset": 0, "MetaData": metadata, **more}
        path = self.daemon.uploads / f"{tus_id}.info"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields))

    def good(self, tus_id: str, filename: str = "a.txt") -> None:
        """An upload that has to be delivered."""
        data = tus_id.encode() * 100
        path = self.daemon.uploads / tus_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.info(tus_id, len(data), {"study": STUDY, "filename": filename})
        digest = hashlib.sha256(data).hexdigest()
        self.sent.append(Sent(tus_id, STUDY, filename, len(data), digest))

    def bad(self, code: str, tus_id: str, make: Callable[[Path], object], size: int = 4) -> None:
        """An upload that fails with a code, whose data ``make`` makes."""
        path = self.daemon.uploads / tus_id
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        self.info(tus_id, size, {"study": STUDY, "filename": tus_id})
        self.failing[tus_id] = code

    def of_study(self, code: str, tus_id: str, metadata: dict[str, str]) -> None:
        (self.daemon.uploads / tus_id).write_bytes(b"12345678")
        self.info(tus_id, 8, metadata)
        self.failing[tus_id] = code


def node(kind: int, device: tuple[int, int] = (0, 0)) -> Callable[[Path], object]:
    return lambda path: os.mknod(path, kind | 0o600, os.makedev(*device))


def lay_out_data(scene: Scene) -> None:
    """What stands in place of data."""
    outside = scene.directory / "outside"
    outside.mkdir()
    (outside / "x").write_text("root")
    uploads = scene.daemon.uploads
    unsafe = "source_unsafe"
    scene.bad(unsafe, "link-out", lambda path: path.symlink_to("/etc/hostname"))
    scene.bad(unsafe, "link-in", lambda path: path.symlink_to("before-0"))
    scene.bad(unsafe, "link-nowhere", lambda path: path.symlink_to("nowhere"))
    scene.bad(unsafe, "link-itself", lambda path: path.symlink_to("link-itself"))
    scene.bad(unsafe, "link-secrets", lambda path: path.symlink_to("/proc/self/environ"))
    scene.bad(unsafe, "link-key", lambda path: path.symlink_to("../state/wrapping.key"))
    scene.bad(unsafe, "fifo", os.mkfifo)
    scene.bad(unsafe, "directory", lambda path: path.mkdir())
    scene.bad(unsafe, "hard-link", lambda path: path.hardlink_to(outside / "x"))
    scene.bad(unsafe, "socket", node(stat.S_IFSOCK))
    if os.geteuid() == 0:
        for name, kind, device in (
            ("null", stat.S_IFCHR, (1, 3)),
            ("zero", stat.S_IFCHR, (1, 5)),
            ("random", stat.S_IFCHR, (1, 8)),
            ("terminal", stat.S_IFCHR, (5, 0)),
            ("disk", stat.S_IFBLK, (8, 0)),
        ):
            with contextlib.suppress(PermissionError):
                scene.bad(unsafe, f"device-{name}", node(kind, device))
    # A link in the middle of a path: its .info lies in the real directory, its data does not.
    infos = uploads / "middle"
    infos.mkdir()
    (infos / "inner").symlink_to(outside)
    scene.info("middle-x", 4, {"study": STUDY}, Storage={
        "InfoPath": f"{uploads}/middle-x.info", "Path": f"{uploads}/middle/inner/x",
    })  # fmt: skip
    scene.failing["middle-x"] = unsafe
    scene.bad("source_changed", "longer", lambda path: path.write_bytes(b"12345"), size=4)
    scene.bad(unsafe, "joined", lambda path: path.write_bytes(b"1234"))
    scene.info("joined", 4, {"study": STUDY}, IsFinal=True, PartialUploads=["../x", "/etc/passwd"])


def lay_out_studies(scene: Scene) -> None:
    scene.of_study("study_missing", "no-study", {"filename": "x"})
    for number, case in enumerate(names.HOSTILE_METADATA):
        if not case.safe:
            scene.of_study("study_missing", f"study-{number}", {"study": case.said})
    scene.of_study("study_refused", "unknown", {"study": UNKNOWN})
    scene.of_study("study_refused", "closed", {"study": CLOSED})
    scene.of_study("study_refused", "large", {"study": SMALL})


def lay_out_infos(scene: Scene) -> None:
    uploads = scene.daemon.uploads
    for number, case in enumerate((*info.BAD, *info.UNSAFE)):
        stem = f"info-{number:03}"
        (uploads / stem).write_bytes(b"x")
        text = case.text.replace(b'"abc"', f'"{stem}"'.encode())
        (uploads / f"{stem}.info").write_bytes(text)
        if case.code == "info_invalid":
            scene.broken.add(stem)
        else:
            scene.failing[stem] = case.code
    for stem in ("of-link", "of-fifo", "of-folder", "of-hard-link", "of-nowhere"):
        (uploads / stem).write_bytes(b"1234")
        scene.broken.add(stem)
    (uploads / "of-link.info").symlink_to("before-0.info")
    (uploads / "of-nowhere.info").symlink_to("/nowhere")
    os.mkfifo(uploads / "of-fifo.info")
    (uploads / "of-folder.info").mkdir()
    (scene.directory / "linked").write_text("{}")
    (uploads / "of-hard-link.info").hardlink_to(scene.directory / "linked")
    (uploads / ".info").write_text("{}")
    with open(os.fsencode(uploads) + b"/not-\xff-utf8.info", "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"{}")
    scene.broken.add("not-\\udcff-utf8")


def lay_out_spool(scene: Scene) -> int:
    """Fill the spool, and say how many of it are bad."""
    new = scene.daemon.spool / "new"
    new.mkdir(parents=True)
    (scene.daemon.spool / "failed").mkdir()
    count = 0
    for number, case in enumerate(spool.CASES):
        own = case.file.replace(".1.json", f".{number}.json")
        (new / own).write_bytes(case.text)
        count += bool(case.code)
    (new / "post-finish.link").symlink_to("/etc/passwd")
    (new / "post-finish.nowhere").symlink_to("/nowhere")
    os.mkfifo(new / "post-finish.fifo")
    (new / "post-finish.folder").mkdir()
    (new / "post-finish.hard").hardlink_to(scene.directory / "linked")
    # What lies where reasons are written is neither followed nor overwritten.
    victim = scene.directory / "victim"
    victim.write_text("mine")
    (scene.daemon.spool / "failed" / "post-finish.link.reason").symlink_to(victim)
    return count + 5


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A daemon that has met everything."""
    scene = Scene(tmp_path_factory.mktemp("bad"))
    with scene.api:
        daemon = scene.make_daemon()
        for number in range(3):
            scene.good(f"before-{number}")
        lay_out_data(scene)
        lay_out_studies(scene)
        for number, case in enumerate(STRANGE):
            if case.said.encode("utf-8", "replace").decode() == case.said:
                scene.good(f"among-{number:02}", case.said)
        scene.good("deep/er/than/the/others")
        lay_out_infos(scene)
        bad = lay_out_spool(scene)
        with daemon:
            for number in range(3):
                scene.good(f"after-{number}")
            ask_everything(scene)
            announced(scene)
            daemon.wait_until_over(len(scene.sent) + len(scene.failing), 60)
            daemon.wait_for(lambda: spooled(daemon) == ([], bad), 30, "the spool is worked on")
            daemon.wait_for(lambda: broken(daemon) >= scene.broken, 30, "each .info is told of")
            scene.good("last")
            daemon.wait_until_over(len(scene.sent) + len(scene.failing), 30)
            yield scene


def spooled(daemon: Dropoffd) -> tuple[list[str], int]:
    """What is left in the spool, and how many were put aside."""
    left = [path.name for path in (daemon.spool / "new").iterdir()]
    reasons = [path for path in (daemon.spool / "failed").iterdir() if path.suffix == ".reason"]
    return left, len(reasons)


def broken(daemon: Dropoffd) -> set[str]:
    """The ``.info`` files that the metrics tell of."""
    return {
        str(line["tus_id"])
        for line in daemon.metrics
        if line["event"] == "upload" and line.get("error_code") == "info_invalid"
    }


def ask(
    kind: socket.AddressFamily, address: str | tuple[str, int], raw: bytes, patience: float = 2.0
) -> bytes:
    """The answer to raw bytes, whatever it is."""
    with socket.socket(kind) as asking:
        asking.settimeout(patience)
        asking.connect(address)
        answer = b""
        with contextlib.suppress(ConnectionError):
            asking.sendall(raw)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while block := asking.recv(65536):
                answer += block
        return answer


def announced(scene: Scene) -> None:
    """An upload that passed pre-create, and then turns out to be a link."""
    metadata = {"study": STUDY, "filename": "announced"}
    event = {"Upload": {"ID": "", "Size": 4, "MetaData": metadata}}
    body = json.dumps({"Type": "pre-create", "Event": event}).encode()
    answer = ask(socket.AF_UNIX, str(scene.daemon.socket), calls.posted("/hooks", body), 30)
    changed = json.loads(answer.partition(b"\r\n\r\n")[2])["ChangeFileInfo"]["MetaData"]
    (scene.daemon.uploads / "announced").symlink_to("/etc/hostname")
    scene.info("announced", 4, changed)
    scene.failing["announced"] = "source_unsafe"


def ask_everything(scene: Scene) -> None:
    """Each hostile request, on the socket and on the listener."""
    for case in calls.CASES:
        for kind, address in (
            (socket.AF_UNIX, str(scene.daemon.socket)),
            (socket.AF_INET, ("127.0.0.1", scene.port)),
        ):
            answer = ask(kind, address, case.raw)
            status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
            assert not 200 <= status < 300 or b'"RejectUpload":true' in answer, (case, answer)
            assert b"Traceback" not in answer
            assert str(scene.directory).encode() not in answer, "internals are nobody's business"


def test_every_neighbour_is_delivered_and_nothing_else(scene: Scene) -> None:
    secret = keys.crypt4gh_secret(scene.pair.secret, lambda: b"")
    drops = [drop for drop in scene.api.drops() if has_stored(drop)]
    check_delivered(scene.sent, drops, {"local": Folder(scene.store)}, secret)
    listed = {row["tus_id"]: row for row in scene.daemon.listed()}
    assert {tus_id for tus_id, row in listed.items() if row["state"] == "done"} == {
        sent.tus_id for sent in scene.sent
    }


def test_none_of_it_brings_a_secret_out_or_breaks_the_journal(scene: Scene) -> None:
    secrets = [ReferenceServer.secret]
    assert traces.check_processes(scene.daemon, secrets)
    traces.check_secrets(scene.daemon, secrets)
    sent = {upload.tus_id for upload in scene.sent}
    known = rows.known(scene.daemon)
    rows.check_states(known, [*sent, *scene.failing], scene.failing)
    rows.check_whole(scene.daemon, rows.OVER)
    receipts = {known[tus_id][0].upload: known[tus_id][0].receipt or {} for tus_id in sent}
    traces.check_receipts(scene.daemon, receipts)
    traces.check_audit(scene.daemon, receipts)


def has_stored(drop: dict[str, Any]) -> bool:
    return any(report["state"] == "stored" for report in drop["reports"])


def test_every_bad_upload_fails_with_its_code(scene: Scene) -> None:
    found = {
        row["tus_id"]: row["error"] and row["error"]["code"]
        for row in scene.daemon.listed()
        if row["state"] == "failed"
    }
    assert found == scene.failing


def test_a_failed_upload_keeps_its_source(scene: Scene) -> None:
    for tus_id in scene.failing:
        if not tus_id.startswith(("middle", "info-")):
            assert os.path.lexists(scene.daemon.uploads / tus_id), tus_id
            assert (scene.daemon.uploads / f"{tus_id}.info").exists()


def test_the_rest_api_hears_why_an_announced_upload_failed(scene: Scene) -> None:
    told = {
        report["tus_id"]: report["error"]["code"]
        for drop in scene.api.drops()
        for report in drop["reports"]
        if report["state"] == "failed"
    }
    assert told["announced"] == "source_unsafe"
    assert told.items() <= scene.failing.items()


def test_every_unreadable_info_is_told_of_in_status_and_metrics(scene: Scene) -> None:
    status = scene.daemon.status()
    assert status is not None
    assert status["intake"]["problems"] == len(scene.broken), [
        line for line in scene.daemon.log.read_text().splitlines() if "source_un" in line
    ]
    codes = {problem["code"] for problem in status["intake"]["problem_list"].values()}
    assert codes == {"info_invalid"}
    assert broken(scene.daemon) == scene.broken


def test_every_unreadable_spool_file_lies_aside_with_its_reason(scene: Scene) -> None:
    failed = scene.daemon.spool / "failed"
    for path in failed.iterdir():
        if path.suffix == ".reason":
            text = path.read_text()
            assert text.startswith("spool_invalid: ")
            assert text.removesuffix("\n").isprintable(), ascii(text)
            assert not path.is_symlink()
    assert (scene.directory / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ("uploads", "--limit", "1000"),
        ("uploads", "--limit", "1000", "--json"),
        ("uploads", "--state", "failed"),
        ("status",),
        ("status", "--json"),
        ("metrics",),
    ],
    ids=" ".join,
)
def test_what_is_shown_does_nothing_to_a_terminal(scene: Scene, arguments: tuple[str, ...]) -> None:
    check_harmless(scene.daemon.cli(*arguments).stdout)


def test_one_upload_shown_does_nothing_to_a_terminal(scene: Scene) -> None:
    shown = [sent.tus_id for sent in scene.sent if not sent.filename.isprintable()]
    assert shown
    for tus_id in shown[:4]:
        check_harmless(scene.daemon.cli("show", tus_id).stdout)


def check_harmless(text: str) -> None:
    assert text
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)


def test_logs_and_records_do_nothing_to_a_terminal(scene: Scene) -> None:
    state = scene.daemon.state
    for path in (scene.daemon.log, state / "metrics.jsonl", state / "audit.jsonl"):
        for line in path.read_bytes().splitlines():
            assert line.isascii(), path
            assert line.decode().isprintable(), path
            json.loads(line)
    # aiohttp itself tells of what is no HTTP, and how it found out.
    told = [
        line for line in scene.daemon.log.read_text().splitlines() if "aiohttp.server" not in line
    ]
    assert not [line for line in told if "Traceback" in line or '"internal"' in line]


def test_the_daemon_has_stayed_small_and_well(scene: Scene) -> None:
    lines = Path(f"/proc/{scene.daemon.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    assert int(fields["VmHWM"].split()[0]) * 1024 < 400 * 1024**2
    began = time.monotonic()
    assert scene.daemon.status() is not None
    assert time.monotonic() - began < 2
