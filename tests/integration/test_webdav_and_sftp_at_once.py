"""The whole daemon, with one upload going to a WebDAV and an SFTP server at once."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from pipeline.envelope import keys
from tests.peers.deliveries import MIB
from tests.peers.dropoffd import Dropoffd
from tests.peers.openers import decrypted
from tests.peers.oracle import Sent
from tests.peers.sending import Wanted, send
from tests.peers.sftp import OpenSsh
from tests.peers.stores import Folder
from tests.peers.tusd import Tusd
from tests.peers.webdav import RcloneWebDav

pytestmark = [pytest.mark.peers]

STUDY = str(uuid.uuid4())
SIZES = {"large": 33 * MIB + 1, "small": 70_000, "empty": 0}
CONFIG = """
[pipeline]
part_size = "8MiB"
[destinations.cloud]
type = "webdav"
url = "{url}"
user = "{user}"
[destinations.inbox]
type = "sftp"
host = "127.0.0.1"
port = {port}
user = "{sftp_user}"
host_keys = "{host_key}"
directory = "{store}"
[studies."{study}"]
encrypt = "crypt4gh"
recipients = ["recipient.pub"]
destinations = ["cloud", "inbox"]
"""


def test_uploads_of_any_size_arrive_at_both(tmp_path: Path) -> None:
    for name in ("dav", "ssh", "daemon"):
        (tmp_path / name).mkdir()
    pair = keys.crypt4gh_generate()
    (tmp_path / "daemon/recipient.pub").write_text(pair.public)
    with RcloneWebDav(tmp_path / "dav") as dav, OpenSsh(tmp_path / "ssh") as ssh:
        config = CONFIG.format(
            url=dav.url,
            user=dav.user,
            port=ssh.port,
            sftp_user=ssh.user,
            host_key=ssh.host_key,
            store=ssh.directory,
            study=STUDY,
        )
        secrets = {
            "DROPOFF_CLOUD_PASSWORD": dav.password,
            "DROPOFF_INBOX_KEY_FILE": str(ssh.key_file),
        }
        with Dropoffd(tmp_path / "daemon", config, secrets) as daemon, Tusd(daemon.uploads) as tusd:
            sent = asyncio.run(sent_to(tusd.url))
            daemon.wait_until_over(len(sent), 60)
            secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
            for folder in (Folder(dav.directory), Folder(ssh.directory)):
                found = {}
                for name in folder.names():
                    with folder.open(name) as source:
                        found[Path(name).stem] = decrypted(source, secret_key)
                assert found == {each.filename: (each.size, each.sha256) for each in sent}
                assert folder.unfinished() == []
            check_receipts(daemon, sent)
            assert daemon.cli("check", check=False).stdout.count("written, read back, deleted") == 2
            assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert dav.password not in log
    assert "PRIVATE KEY" not in log


def check_receipts(daemon: Dropoffd, sent: list[Sent]) -> None:
    """Each tells of both, and holds against what the servers have."""
    receipts = list((daemon.state / "receipts").iterdir())
    assert len(receipts) == len(sent)
    for path in receipts:
        deliveries = json.loads(path.read_text())["deliveries"]
        assert [(each["type"], each["verified"]) for each in deliveries] == [
            ("webdav", "readback"),
            ("sftp", "readback"),
        ]
        assert [each["uri"].partition("://")[0] for each in deliveries] == ["http", "sftp"]
        daemon.cli("verify", str(path), "--remote")


async def sent_to(url: str) -> list[Sent]:
    wanted = [
        Wanted(STUDY, name, size, seed) for seed, (name, size) in enumerate(SIZES.items(), start=1)
    ]
    return [await send(url, each) for each in wanted]
