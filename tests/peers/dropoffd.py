"""The daemon as its users run it: a process of its own, with a config file and a socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

READY_TIMEOUT = 30.0


METRICS_DELAY = 0.1
"""Seconds after which the line of a thing that happened is written: they are gathered for half as
long."""


class Dropoffd:
    """`dropoffd run` in ``directory``: config.toml, state, spool, socket and log are below it.

    ``config`` is TOML text; ``{directory}`` in it is filled in. Made and left in the main thread.
    """

    def __init__(
        self, directory: Path, config: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.socket = directory / "hooks.sock"
        self.spool = directory / "spool"
        self.state = directory / "state"
        self.uploads = directory / "uploads"
        self.log = directory / "dropoffd.log"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.uploads.mkdir(exist_ok=True)
        places = (
            f'[uploads]\ndirectory = "{self.uploads}"\nrescan = "2s"\n'
            f'[spool]\ndirectory = "{self.spool}"\n'
            f'[state]\ndirectory = "{self.state}"\n'
            f'[hooks]\nsocket = "{self.socket}"\n'
        )
        self.config.write_text(places + config.replace("{directory}", str(directory)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, with those of what just happened."""
        time.sleep(METRICS_DELAY)
        try:
            text = (self.state / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def start(self, *, wait: bool = True, before: Sequence[str] = ()) -> None:
        """Start it; with ``wait``, until it says that it runs.

        ``before`` is put before the command: a program that runs it.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*before, sys.executable, "-m", "daemon", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self._environment},
            )
        if wait:
            try:
                self.wait_for(self._answers, READY_TIMEOUT, "the daemon is ready")
            except BaseException:
                self.kill()  # a context that is not entered is not left either
                raise

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end, and give the exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL: as if the power had gone, for this process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def status(self) -> dict[str, Any] | None:
        """What `GET /status` on the socket says; None while nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("localhost", timeout=5)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(5)
            try:
                connection.sock.connect(str(self.socket))
                connection.request("GET", "/status")
                answer: dict[str, Any] = json.loads(connection.getresponse().read())
                return answer
            finally:
                connection.close()
        return None

    def _answers(self) -> bool:
        return self.status() is not None

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `dropoffd` command with this daemon's config."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self._environment},
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr}")
        return done

    def show(self, upload: str) -> dict[str, Any]:
        """What `dropoffd show` says of an upload."""
        shown: dict[str, Any] = json.loads(self.cli("show", upload, "--json").stdout)
        return shown

    def listed(self) -> list[dict[str, Any]]:
        """What `dropoffd uploads` lists."""
        done = self.cli("uploads", "--limit", "100000", "--json", check=False)
        listed: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return listed

    def wait_for(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Until ``condition`` holds; an error with the end of the log where it doesn't in time."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self._process is not None and self._process.poll() is not None:
                raise AssertionError(
                    f"ended with {self._process.returncode} before {what}:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {timeout:.0f} s: {what}\n{self.tail()}")
            time.sleep(0.1)

    def wait_until_over(self, count: int, timeout: float) -> None:
        """Until ``count`` uploads are done or failed, and nothing is under way."""

        def over() -> bool:
            status = self.status()
            if status is None:
                return False
            uploads = status["uploads"]
            ended = sum(uploads[state] for state in ("done", "failed", "terminated", "discarded"))
            return bool(ended >= count and ended == sum(uploads.values()))

        self.wait_for(over, timeout, f"{count} uploads are over ({self.status()})")

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
