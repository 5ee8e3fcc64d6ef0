"""`dropoffd api` as a real process: :class:`ReferenceServer`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from daemon.settings import Api

ROOT = Path(__file__).parents[2]


class ReferenceServer:
    """The project's own REST API over the studies that ``studies`` (TOML) has.

    It has a destination ``local``. What it was told outlives :meth:`stop` and :meth:`start`.
    """

    key = "reference"
    secret = "the reference's secret"

    def __init__(self, directory: Path, studies: str, path: str = "/v1/") -> None:
        self.port = 0
        self.state = directory / "state"
        self._path = path
        self._config = directory / "config.toml"
        self._config.write_text(
            f'[uploads]\ndirectory = "{directory}/uploads"\n'
            f'[spool]\ndirectory = "{directory}/spool"\n'
            f'[state]\ndirectory = "{self.state}"\n'
            f'[hooks]\nsocket = "{directory}/hooks.sock"\n'
            f'[api]\nurl = "http://127.0.0.1:1{path}"\n'
            f'[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n{studies}'
        )
        self._process: subprocess.Popen[str] | None = None

    @property
    def api(self) -> Api:
        """Settings that reach this server."""
        url = f"http://127.0.0.1:{self.port}{self._path}"
        return Api(url=url, hawk_key=self.key, hawk_secret=self.secret, timeout=10.0)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the same port as before if there was one."""
        self._process = subprocess.Popen(
            self.command(f"127.0.0.1:{self.port}"),
            cwd=ROOT,
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        ready = re.fullmatch(r"dropoffd api listens on http://127\.0\.0\.1:(\d+)(/.*)\n", line)
        if ready is None:
            self.stop(signal.SIGKILL)
            pytest.fail(f"dropoffd api did not start: {line}")
        assert ready[2] == self._path
        self.port = int(ready[1])

    def drops(self) -> list[dict[str, Any]]:
        """What came in, as :meth:`tests.peers.hawk.HawkServer.drops` tells it."""
        with contextlib.closing(sqlite3.connect(self.state / "api.sqlite")) as database:
            reports: dict[str, list[dict[str, Any]]] = {}
            for upload, body in database.execute(
                "SELECT upload, body FROM reports ORDER BY number"
            ):
                reports.setdefault(upload, []).append(json.loads(body))
            ids = [upload for (upload,) in database.execute("SELECT id FROM drops")]
        return [{"id": upload, "reports": reports.get(upload, [])} for upload in ids]

    def command(self, listen: str) -> list[str]:
        """How it is started."""
        command = [sys.executable, "-m", "daemon", "api", "--config", str(self._config)]
        return [*command, "--listen", listen]

    @classmethod
    def asked_at(cls, url: str) -> dict[str, str]:
        """The environment of a daemon that asks it at ``url``, which may be a proxy's."""
        return {
            "WEBHOOK_URL": url,
            "DROPOFF_API_HAWK_KEY": cls.key,
            "DROPOFF_API_HAWK_SECRET": cls.secret,
        }

    def environment(self) -> dict[str, str]:
        """With the HAWK credentials."""
        return {
            **os.environ,
            "DROPOFF_API_HAWK_KEY": self.key,
            "DROPOFF_API_HAWK_SECRET": self.secret,
        }

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and give its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(10)
        if process.stderr is not None:
            process.stderr.close()
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def study_table(study: str, more: str = "") -> str:
    """A study of the config that delivers to ``local`` in clear."""
    return (
        f'[studies."{study}"]\nencrypt = "none"\nrecipients = []\n'
        f'destinations = ["local"]\n{more}\n'
    )
