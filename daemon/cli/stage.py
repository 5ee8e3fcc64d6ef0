"""The demo's stage: a REST API, a daemon and a tus server, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from daemon.cli.client import ask
from pipeline.envelope import keys
from pipeline.errors import DropoffError

START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
_LISTENS = re.compile(rb"(http://127\.0\.0\.1:\d+/)")


class StageError(DropoffError):
    """A part of the demo did not come up, or ended; the message holds the end of its log."""

    code = "demo_failed"


class Stage:
    """Everything that an upload meets, below one directory. A context manager that ends it all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.study = str(uuid.uuid4())
        self.uploads = directory / "uploads"
        self.store = directory / "store"
        self.state = directory / "state"
        self.socket = directory / "hooks.sock"
        self.secret_key = directory / "demo.key"
        self.tusd = shutil.which("tusd")
        self.api_url = ""
        self.tus_url = ""
        self._running: list[tuple[str, asyncio.subprocess.Process]] = []
        self._environment = {
            **os.environ,
            "DROPOFF_API_HAWK_KEY": "demo",
            "DROPOFF_API_HAWK_SECRET": secrets.token_urlsafe(32),
        }

    async def __aenter__(self) -> Self:
        """Lay out the directory, and start the REST API, the daemon and tusd where it is."""
        try:
            self._lay_out()
            await self._start_api()
            await self._start_daemon()
            if self.tusd:
                await self._start_tusd(self.tusd)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End what was started, the last first."""
        await self._stop()

    def check(self) -> None:
        """Raise StageError where a part has ended."""
        for name, process in self._running:
            if process.returncode is not None:
                raise StageError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")

    def _lay_out(self) -> None:
        for place in (self.uploads, self.store):
            place.mkdir(parents=True, exist_ok=True)
        pair = keys.crypt4gh_generate()
        descriptor = os.open(self.secret_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(pair.secret)
        (self.directory / "demo.pub").write_text(pair.public)
        (self.directory / "api.toml").write_text(
            self._common("api")
            + f'[studies."{self.study}"]\nencrypt = "crypt4gh"\n'
            + 'recipients = ["demo.pub"]\ndestinations = ["local"]\n'
        )

    def _common(self, state: str) -> str:
        return (
            f'[uploads]\ndirectory = {_quoted(self.uploads)}\nrescan = "1s"\n\n'
            f"[spool]\ndirectory = {_quoted(self.directory / 'spool')}\n\n"
            f"[state]\ndirectory = {_quoted(self.directory / state)}\n\n"
            f"[hooks]\nsocket = {_quoted(self.socket)}\n\n"
            f'[destinations.local]\ntype = "directory"\ndirectory = {_quoted(self.store)}\n\n'
        )

    async def _start_api(self) -> None:
        words = ["api", "--config", str(self.directory / "api.toml"), "--listen", "127.0.0.1:0"]
        await self._start("api", [sys.executable, "-m", "daemon", *words])
        self.api_url = (await self._said("api", _LISTENS)).decode()

    async def _start_daemon(self) -> None:
        config = self.directory / "config.toml"
        config.write_text(self._common("state") + f'[api]\nurl = "{self.api_url}"\n')
        words = ["run", "--config", str(config)]
        await self._start("daemon", [sys.executable, "-m", "daemon", *words])
        async with asyncio.timeout(START_TIMEOUT):
            while not await self._answers():
                self.check()
                await asyncio.sleep(0.05)

    async def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        answer = await asyncio.to_thread(ask, self.socket, "GET", "/status")
        status: dict[str, Any] = answer.json()
        return status

    async def _answers(self) -> bool:
        try:
            await self.status()
        except DropoffError:
            return False
        return True

    async def _start_tusd(self, tusd: str) -> None:
        hooks = self.directory / "hooks"
        words = ["install", "hooks", "--directory", str(hooks), "--server", "tusd"]
        config = ["--config", str(self.directory / "config.toml")]
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemon", *words, *config),
            stdout=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        if await done.wait():
            raise StageError("the hooks could not be installed")
        port = _free_port()
        self.tus_url = f"http://127.0.0.1:{port}/files/"
        place = ["-host", "127.0.0.1", "-port", str(port), "-upload-dir", str(self.uploads)]
        await self._start("tusd", [tusd, *place, "-hooks-dir", str(hooks)], plain=True)
        async with asyncio.timeout(START_TIMEOUT):
            while not await _listens(port):
                self.check()
                await asyncio.sleep(0.05)

    async def _start(self, name: str, command: Sequence[str], *, plain: bool = False) -> None:
        environment: Mapping[str, str] = dict(os.environ) if plain else self._environment
        with self._log(name).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the demo, which ends them in order
            )
        self._running.append((name, process))

    async def _said(self, name: str, pattern: re.Pattern[bytes]) -> bytes:
        async with asyncio.timeout(START_TIMEOUT):
            while (found := pattern.search(self._log(name).read_bytes())) is None:
                self.check()
                await asyncio.sleep(0.05)
        return found[1]

    async def _stop(self) -> None:
        for _, process in reversed(self._running):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(STOP_TIMEOUT):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _tail(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")[-2000:]


def _quoted(path: Path) -> str:
    """A path as a TOML string."""
    return json.dumps(str(path), ensure_ascii=False)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
