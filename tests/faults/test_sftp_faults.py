"""An SFTP server that fails in single requests: the delivery ends right, or says why.

What can happen to its connection is in test_remote_faults.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
import pytest_asyncio

from tests.peers import faulty_sftp
from tests.peers.conveying import Line, LocalWorkers, line
from tests.peers.deliveries import MIB
from tests.peers.faulty_sftp import FaultySftp, SftpFault
from tests.peers.hasty import make_hasty
from tests.peers.oracle import Failing

pytestmark = [pytest.mark.peers, pytest.mark.asyncio, pytest.mark.timeout(30)]

SIZE = 10 * MIB + 1

PASSING: dict[str, tuple[str, SftpFault]] = {
    "failure to make a directory": ("mkdir", faulty_sftp.failing()),
    "no answer to a look": ("lstat", faulty_sftp.silent(done=False)),
    "no answer to a directory": ("mkdir", faulty_sftp.silent(done=True)),
    "no answer to open": ("open", faulty_sftp.silent(done=True)),
    "failure to open": ("open", faulty_sftp.failing()),
    "no answer to a write": ("write", faulty_sftp.silent(done=False)),
    "failure to a write": ("write", faulty_sftp.failing()),
    "failure to a done write": ("write", faulty_sftp.done_but_failing()),
    "an end amid writes": ("write", faulty_sftp.lost_answer()),
    "no answer to close": ("close", faulty_sftp.silent(done=True)),
    "failure to sync": ("fsync", faulty_sftp.failing()),
    "no answer to sync": ("fsync", faulty_sftp.silent(done=False)),
    "another byte read": ("read", faulty_sftp.other_byte()),
    "failure to a read": ("read", faulty_sftp.failing()),
    "no answer to a read": ("read", faulty_sftp.silent(done=False)),
    "failure to rename": ("rename", faulty_sftp.failing()),
    "no answer to rename": ("rename", faulty_sftp.silent(done=False)),
    "no answer to a done rename": ("rename", faulty_sftp.silent(done=True)),
    "failure to a done rename": ("rename", faulty_sftp.done_but_failing()),
    "an end after a done rename": ("rename", faulty_sftp.lost_answer()),
}
"""What happens once, and must not be seen in the end."""


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[FaultySftp]:
    (tmp_path / "server").mkdir()
    async with FaultySftp(tmp_path / "server") as started:
        yield started


@pytest_asyncio.fixture
async def conveyor(
    server: FaultySftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    make_hasty(monkeypatch)
    async with LocalWorkers() as workers, line(tmp_path, workers, server.spec) as made:
        yield made


@pytest.mark.parametrize("fault", PASSING)
async def test_what_happens_once_at_an_sftp_server_is_not_seen_in_the_end(
    fault: str, conveyor: Line, server: FaultySftp
) -> None:
    server.spoil(*PASSING[fault])
    await conveyor.judged(server, await conveyor.receive(SIZE))
    assert server.made == 1


@pytest.mark.parametrize(
    ("operation", "fault", "code"),
    [
        ("read", faulty_sftp.other_byte(), "verification_failed"),
        ("write", faulty_sftp.failing(asyncssh.SFTPPermissionDenied), "destination_refused"),
        ("rename", faulty_sftp.failing(asyncssh.SFTPPermissionDenied), "destination_refused"),
    ],
    ids=["another byte read", "no right to write", "no right to rename"],
)
async def test_what_goes_on_at_an_sftp_server_is_told_and_nothing_has_the_name(
    operation: str, fault: SftpFault, code: str, conveyor: Line, server: FaultySftp
) -> None:
    server.spoil(operation, fault, times=1000)
    failing = Failing(code, begun=code == "destination_refused")  # for a `retry` to go on with
    await conveyor.judged(server, await conveyor.receive(SIZE), failing)
