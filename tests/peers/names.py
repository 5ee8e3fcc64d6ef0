"""A host's name that resolves only while it is told to, in this process and in daemons."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

HOST = "store.invalid"
"""No name server knows names below `.invalid`, and none is asked for this one."""

_ADDRESS = "127.0.0.1"
_FOR_DAEMONS = """\
import os, socket

real = socket.getaddrinfo

def getaddrinfo(host, *more, **named):
    if host not in ({host!r}, {host!r}.encode()):
        return real(host, *more, **named)
    if not os.path.exists({flag!r}):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return real({address!r}, *more, **named)

socket.getaddrinfo = getaddrinfo
"""


class Names:
    """Whether :data:`HOST` can be found."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "names"
        self._directory.mkdir()
        self._flag = self._directory / "found"
        text = _FOR_DAEMONS.format(host=HOST, flag=str(self._flag), address=_ADDRESS)
        (self._directory / "sitecustomize.py").write_text(text)
        self.asked = 0
        """How often in this process."""
        self._real = socket.getaddrinfo

    def come(self) -> None:
        """It resolves."""
        self._flag.touch()

    def go(self) -> None:
        """It doesn't, for who asks from now on."""
        self._flag.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of a daemon that asks here."""
        return {"PYTHONPATH": str(self._directory)}

    def answer_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process ask here."""
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401  # as it is
        if host not in {HOST, HOST.encode()}:
            return self._real(host, *more, **named)
        self.asked += 1
        if not self._flag.exists():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real(_ADDRESS, *more, **named)
