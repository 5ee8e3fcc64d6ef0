"""Complete uploads as tusd leaves them, and its pre-create, without a tus server."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Listening(Protocol):
    """Who answers hooks."""

    @property
    def socket(self) -> Path:
        """Where."""


def info_of(data: Path, size: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The `.info` of an upload of ``size`` bytes in ``data``, as tusd 2 has it."""
    return {
        "ID": data.name,
        "Size": size,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": dict(metadata),
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {"Type": "filestore", "Path": str(data)},
    }


def lay_info(data: Path, size: int, metadata: Mapping[str, str]) -> None:
    """Write it beside ``data``, which is there, in part at least."""
    data.with_name(f"{data.name}.info").write_text(json.dumps(info_of(data, size, metadata)))


def lay_hook(spool: Path, hook: str, data: Path, size: int) -> None:
    """Write what the hook script leaves in the spool for an upload in ``data``."""
    upload = info_of(data, size, {}) | {"Offset": size}
    request = {"Method": "PATCH", "URI": "/", "RemoteAddr": "127.0.0.1:1", "Header": {}}
    message = {"Type": hook, "Event": {"Upload": upload, "HTTPRequest": request}}
    for name in ("tmp", "new", "failed"):
        (spool / name).mkdir(parents=True, exist_ok=True)
    (spool / "new" / f"{hook}.{uuid.uuid4().hex}.json").write_text(json.dumps(message))


def pre_create(
    daemon: Listening,
    size: int,
    metadata: Mapping[str, str],
    path: str = "/hooks/pre-create?server=tusd",
) -> dict[str, Any]:
    """Ask whether an upload may be, as tusd 2's hook does; the answer.

    ``path`` is ``/hooks`` for its HTTP hook.
    """
    upload = info_of(Path(), size, metadata) | {"ID": "", "Storage": None}
    request = {"Method": "POST", "URI": "/", "RemoteAddr": "127.0.0.1:1", "Header": {}}
    message = {"Type": "pre-create", "Event": {"Upload": upload, "HTTPRequest": request}}
    connection = http.client.HTTPConnection("localhost", timeout=20)
    with contextlib.closing(connection):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        connection.sock.connect(str(daemon.socket))
        connection.request("POST", path, json.dumps(message))
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer
