from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@dropoffd-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if name.startswith("@") else name)
        receiver.settimeout(5)
        yield receiver, name


def test_what_the_manager_is_told(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    told: list[tuple[Callable[[], bool], bytes]] = [
        (lambda: notifier.ready("12 uploads"), b"READY=1\nSTATUS=12 uploads"),
        (lambda: notifier.status("5 € left"), "STATUS=5 € left".encode()),
        (notifier.watchdog, b"WATCHDOG=1"),
        (notifier.stopping, b"STOPPING=1"),
        (lambda: notifier.extend(1.5), b"EXTEND_TIMEOUT_USEC=1500000"),
    ]
    for send, expected in told:
        assert send()
        assert receiver.recv(4096) == expected


def test_a_reload_carries_the_monotonic_time(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    assert Notifier({"NOTIFY_SOCKET": name}).reloading()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", receiver.recv(4096))


def test_a_status_cannot_say_anything_else(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    assert Notifier({"NOTIFY_SOCKET": name}).status("bad.txt\nSTOPPING=1\udc80")
    assert receiver.recv(4096) == b"STATUS=bad.txt STOPPING=1\\udc80"


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    assert not notifier.ready()
    assert notifier.watchdog_interval is None


@pytest.mark.parametrize("name", ["/nowhere/notify", "x" * 200, "@", "a\0b"])
def test_a_manager_that_cannot_be_reached_is_no_error(name: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": name}).ready()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    environ: dict[str, str], interval: float | None
) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **environ}).watchdog_interval == interval
