"""RabbitMQ, as Debian has it: a broker of its own for a test, with nothing of the machine's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

import aiormq
from yarl import URL

from tests.peers import cache
from tests.peers.seaweedfs import free_ports

# The program in /usr/sbin wants to be another user; this one is what it starts in the end.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_TIMEOUT = 60.0
USER, PASSWORD = "dropoff", "s3cret-of:the/broker"

_CONFIG = """\
default_user = {user}
default_pass = {password}
{listeners}
loopback_users = none
log.console = false
vm_memory_high_watermark.absolute = 512MiB
disk_free_limit.absolute = 1MB
"""


class RabbitMq:
    """A broker on free ports of the loopback; use it as a context manager.

    Its Erlang port mapper is our own, too, so nothing outlives it. Made and left in the main
    thread: the kernel ends it with the thread that started it.

    Args:
        directory: Gets its configuration, data and log.
        certificate: With it and its key, in files, it also speaks TLS, on `tls_port`.
    """

    def __init__(self, directory: Path, certificate: tuple[Path, Path] | None = None) -> None:
        if not PROGRAM.exists():
            raise cache.PeerMissingError("no RabbitMQ; apt-get install rabbitmq-server")
        self._epmd = cache.tool("epmd", "RabbitMQ")
        self.directory = directory
        self.log = directory / "rabbitmq.log"
        self.port, self.tls_port, self._dist_port, self._epmd_port = free_ports(4)
        self._certificate = certificate
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """Where it is, without the password: as config.toml has it."""
        return f"amqp://{USER}@127.0.0.1:{self.port}/%2F"

    @property
    def tls_url(self) -> str:
        """Likewise by TLS."""
        return f"amqps://{USER}@127.0.0.1:{self.tls_port}"

    @property
    def full_url(self) -> str:
        """Where it is, with the password: as rustus wants it."""
        return str(URL(self.url).with_password(PASSWORD))

    def start(self) -> None:
        """Start it, or start it again on the same data and ports, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_config()
        try:
            self._spawn([self._epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"])
            self._wait(self._epmd_port)
            self._spawn([str(PROGRAM)])
            self._wait(self.port)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """SIGTERM: it says farewell to its clients. The data stays for another start."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as in a crash."""
        self._end(signal.SIGKILL)

    def tail(self) -> str:
        """The end of its log."""
        texts = [path.read_text(errors="replace") for path in self.directory.glob("*.log")]
        return "\n".join(texts)[-4000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        # Nobody wants its data any more.
        self.kill()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aiormq.abc.AbstractChannel]:
        """A channel to it, to look from outside at what a test did, or to publish."""
        connection = await aiormq.connect(self.full_url)
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    async def waiting(self, queue: str) -> int | None:
        """How many messages are ready in a queue, those delivered aside; None: no such queue."""
        async with self.channel() as channel:
            try:
                found = await channel.queue_declare(queue, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return None
            return found.message_count or 0

    def _write_config(self) -> None:
        listeners = f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
        if self._certificate is not None:
            certificate, key = self._certificate
            listeners += (
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {certificate}\n"
                f"ssl_options.certfile = {certificate}\n"
                f"ssl_options.keyfile = {key}\n"
            )
        text = _CONFIG.format(user=USER, password=PASSWORD, listeners=listeners)
        (self.directory / "rabbitmq.conf").write_text(text)
        (self.directory / "plugins").write_text("[].\n")

    def _environment(self) -> dict[str, str]:
        place = self.directory
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(place),  # of the cookie
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"dropoff{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(place / "data"),
            "RABBITMQ_LOG_BASE": str(place),
            "RABBITMQ_PID_FILE": str(place / "pid"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(place / "feature_flags"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(place / "generated"),
            # Two schedulers, no busy waiting: the machine is shared.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none"
            ),
            # So that the shell becomes the broker: its process is the one that we end.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def _spawn(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*_dies_with_us(), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    env=self._environment(),
                    start_new_session=True,
                )
            )

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(port):
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"RabbitMQ did not start:\n{self.tail()}")
            time.sleep(0.05)

    def _end(self, number: signal.Signals) -> None:
        processes, self._processes = self._processes, []
        for process in reversed(processes):  # the port mapper goes last
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Erlang's helpers are of the same session, which is our making.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def silent_broker() -> Iterator[int]:
    """The port of one that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel kill a command when its parent dies, where there is one."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def installed() -> None:
    """Raises PeerMissingError where it isn't."""
    if not PROGRAM.exists():
        raise cache.PeerMissingError("no RabbitMQ; apt-get install rabbitmq-server")
