"""SeaweedFS: an S3 server that holds checksums and conditional writes to their word."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.peers import cache

REGION = "us-east-1"
START_TIMEOUT = 60.0
_KMS = {
    "default_provider": "local",
    "providers": {"local": {"type": "local", "enableOnDemandCreate": True}},
}
"""Keys that are made in memory when they are first named."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return ports


def s3_client(endpoint: str, access_key: str, secret_key: str) -> botocore.client.BaseClient:
    """A plain botocore client, to look from outside at what a test did."""
    return botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            connect_timeout=2,
            read_timeout=30,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path"},
        ),
    )


class Weed:
    """A server of its own: master, volumes, filer and S3 in one process, data in ``directory``.

    Made and left in the same thread, the main one: the kernel ends the server with the thread
    that started it, so that it never outlives a killed test run.
    """

    def __init__(self, directory: Path) -> None:
        self.access_key = "tests-access-key"
        self.secret_key = "tests-secret-key-0123456789"
        self.directory = directory
        self._ports = dict(
            zip(
                (
                    *("master", "master_grpc", "volume", "volume_grpc"),
                    *("filer", "filer_grpc", "s3", "s3_grpc"),
                ),
                free_ports(8),
                strict=True,
            )
        )
        self._program = cache.tool("weed", "SeaweedFS")
        self._sockets = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def log(self) -> Path:
        return self.directory / "weed.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again on the same data and ports, and wait until buckets can be made."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        identities = self.directory / "s3.json"
        identities.write_text(json.dumps({"identities": [self._identity()], "kms": _KMS}))
        self._sockets = tempfile.mkdtemp(prefix="weed-")  # a path short enough for a socket
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_dies_with_us(), self._program, *self._arguments(data, identities)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "HOME": str(self.directory),
                    "WEED_S3_SSE_KEY": "what it derives its own key from",
                },
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it at once: it takes no heed of SIGTERM. The data stays for another start."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)
        for port in self._ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108  # fixed in weed
                left.unlink(missing_ok=True)

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def client(self) -> botocore.client.BaseClient:
        return s3_client(self.endpoint, self.access_key, self.secret_key)

    def _identity(self) -> dict[str, object]:
        return {
            "name": "tests",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }

    def _arguments(self, data: Path, identities: Path) -> list[str]:
        ports = self._ports
        return [
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={ports['master']}",
            f"-master.port.grpc={ports['master_grpc']}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            f"-volume.port={ports['volume']}",
            f"-volume.port.grpc={ports['volume_grpc']}",
            "-volume.max=60",
            f"-filer.port={ports['filer']}",
            f"-filer.port.grpc={ports['filer_grpc']}",
            f"-filer.localSocket={self._sockets}/filer",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.port.grpc={ports['s3_grpc']}",
            f"-s3.localSocket={self._sockets}/s3",
            f"-s3.config={identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
        ]

    def _wait(self) -> None:
        """Until an object can be written: S3 answers some time before volumes can be had."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        client = self.client()
        while True:
            try:
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="probe", Body=b"ready")
            except (BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = self.log.read_text()[-2000:]
                    raise RuntimeError(f"weed did not start:\n{text}") from error
                time.sleep(0.2)
            else:
                return


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel kill a command when its parent dies, where there is one."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
