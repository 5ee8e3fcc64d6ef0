"""Django with hawkrest as a real process: :class:`HawkrestServer`."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from daemon.settings import Api

APP = Path(__file__).parent / "hawkrest_app.py"


class HawkrestServer:
    """The REST API as a Django shop has it: its 401 says ``Hawk`` and no more.

    ``options`` go to ``hawkrest_app.py``.
    """

    def __init__(self, directory: Path, plans: dict[str, Any], **options: object) -> None:
        self._options = {"key": "django", "secret": "a shop's secret", "plans": plans, **options}
        self._file = directory / "hawkrest.json"
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def api(self) -> Api:
        """Settings that reach this server."""
        return Api(
            url=f"http://127.0.0.1:{self._port}/shop/",
            hawk_key=str(self._options["key"]),
            hawk_secret=str(self._options["secret"]),
            timeout=10.0,
        )

    def drops(self) -> list[dict[str, Any]]:
        """What came in, with its reports as they arrived."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", "/_drops")
            found: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found

    def __enter__(self) -> Self:
        self._file.write_text(json.dumps(self._options))
        self._process = subprocess.Popen(
            [sys.executable, str(APP), str(self._file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            pytest.fail("the hawkrest server did not start")
        self._port = json.loads(line)["port"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
