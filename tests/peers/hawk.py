"""A REST API under npm's hawk module, as a real process: :class:`HawkServer`."""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path
from typing import Any

from daemon.settings import Api
from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.tusd import free_port

HERE = Path(__file__).parent / "hawk_server"


def installed() -> Path:
    """A directory with node_modules as package.json wants them; PeerMissingError without npm."""
    npm = cache.tool("npm", "the hawk server")
    wanted = HERE / "package.json"

    def install(into: Path) -> None:
        shutil.copy(wanted, into)
        cache.run([npm, "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=into)

    return cache.built("hawk", [wanted], install)


class HawkServer(ServerProcess):
    """A REST API of the contract that others' HAWK guards.

    ``plans`` maps a study to its plan; an unknown study gets 404, one with ``open`` false 403, and
    an upload over ``max_size`` 413. Drops and reports outlive :meth:`stop` and :meth:`start`, and
    the port stays the same.
    """

    def __init__(
        self,
        directory: Path,
        plans: dict[str, dict[str, Any]],
        *,
        key: str = "dropoff",
        secret: str = "a secret of the tests",  # noqa: S107 -- made for the test
        clock_offset: float = 0.0,
    ) -> None:
        super().__init__((), 0, directory / "hawk-server.log")
        self.key = key
        self.secret = secret
        self._directory = directory
        self._knobs: dict[str, Any] = {"plans": plans, "clock_offset": clock_offset}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def api(self) -> Api:
        """Settings that reach this server."""
        return Api(url=self.url, hawk_key=self.key, hawk_secret=self.secret, timeout=10.0)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a daemon reach this server."""
        return {
            "WEBHOOK_URL": self.url,
            "DROPOFF_API_HAWK_KEY": self.key,
            "DROPOFF_API_HAWK_SECRET": self.secret,
        }

    def start(self) -> None:
        """Start it, on the same port as before if there was one."""
        modules = str(installed() / "package.json")
        self._directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        options = self._directory / "hawk-server.json"
        state = str(self._directory / "hawk-server-state.json")
        given = {"key": self.key, "secret": self.secret, "port": self.port, "state": state}
        options.write_text(json.dumps(given | self._knobs | {"modules": modules}))
        node = cache.tool("node", "the hawk server")
        self._command = [node, str(HERE / "server.js"), str(options)]
        super().start()

    def control(self, **knobs: Any) -> None:  # noqa: ANN401 -- JSON
        """Change ``plans``, ``clock_offset``, ``unsigned``, ``fail``, ``lose`` (see server.js)."""
        lasting = ("plans", "clock_offset", "unsigned")
        self._knobs |= {name: knobs[name] for name in lasting if name in knobs}
        self._ask("POST", "/_control", knobs)

    def drops(self) -> list[dict[str, Any]]:
        """What came in: id, key, announcement, reports in the order they arrived, repeats."""
        found: list[dict[str, Any]] = self._ask("GET", "/_drops")
        return found

    def _ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 -- JSON
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
