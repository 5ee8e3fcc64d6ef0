"""Ceph's RADOS gateway, the S3 server of many institutes: a monitor, an OSD in memory, a gateway.

Debian's packages ``radosgw``, ``ceph-mon`` and ``ceph-osd`` are needed; nothing builds them here.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import botocore.client
from botocore.exceptions import BotoCoreError, ClientError

from tests.peers import cache
from tests.peers.seaweedfs import free_ports, s3_client

KMS_KEY = "the-key"
"""A key that the gateway has for SSE-KMS."""
STORAGE_CLASS = "COLD"
"""One that it has beside the usual."""
START_TIMEOUT = 180.0
"""Seconds; it makes a dozen pools when it starts for the first time."""


class Ceph:
    """A cluster of its own, with everything in ``directory``; use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.access_key = "tests-access-key"
        self.secret_key = "tests-secret-key-0123456789"
        self.directory = directory
        v2, v1, self._port = free_ports(3)
        self._monitor = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        self._fsid = str(uuid.uuid4())
        for name in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool"):
            cache.tool(name, "Ceph's gateway")
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self) -> botocore.client.BaseClient:
        return s3_client(self.endpoint, self.access_key, self.secret_key)

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def limit_bucket(self, name: str, size: int) -> None:
        """Give a bucket a quota of some bytes."""
        for words in (("set", f"--max-size={size}"), ("enable",)):
            self._admin("quota", words[0], "--quota-scope=bucket", f"--bucket={name}", *words[1:])

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _start(self) -> None:
        self._write_config()
        self._start_monitor()
        self._start_osd()
        self._start_gateway()

    def _write_config(self) -> None:
        place = self.directory
        place.mkdir(parents=True, exist_ok=True)
        (place / "ceph.conf").write_text(
            f"""[global]
fsid = {self._fsid}
mon host = {self._monitor}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {place}/$name.keyring
run dir = {place}
log file = {place}/$name.log
admin socket =
pid file =
mon data = {place}/mon
osd data = {place}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
rgw dns name =
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {KMS_KEY}={base64.b64encode(bytes(range(32))).decode()}
"""
        )

    def _start_monitor(self) -> None:
        place = self.directory
        admin = ("mon", "osd", "mds", "mgr")
        self._make_key(place / "mon.a.keyring", "mon.", ("mon",))
        self._make_key(place / "client.admin.keyring", "client.admin", admin)
        self._do("ceph-authtool", place / "mon.a.keyring", "--import-keyring",
                 place / "client.admin.keyring")  # fmt: skip
        self._do("monmaptool", "--create", "--addv", "a", self._monitor, "--fsid", self._fsid,
                 place / "monmap")  # fmt: skip
        (place / "mon").mkdir()
        self._do("ceph-mon", *self._named("mon.a"), "--mkfs", "--monmap", place / "monmap")
        self._run("ceph-mon", "mon.a")

    def _start_osd(self) -> None:
        place = self.directory
        number = str(uuid.uuid4())
        self._ceph("osd", "new", number)
        self._ceph("auth", "get-or-create", "osd.0", "mon", "allow profile osd", "osd", "allow *",
                   "-o", str(place / "osd.0.keyring"))  # fmt: skip
        (place / "osd").mkdir()
        self._do("ceph-osd", *self._named("osd.0"), "--mkfs", "--osd-uuid", number)
        self._run("ceph-osd", "osd.0")

    def _start_gateway(self) -> None:
        name = "client.rgw.tests"
        self._ceph("auth", "get-or-create", name, "mon", "allow rw", "osd", "allow rwx",
                   "-o", str(self.directory / f"{name}.keyring"))  # fmt: skip
        keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        self._admin("user", "create", "--uid=tests", "--display-name=tests", *keys)
        of_class = ("--placement-id=default-placement", f"--storage-class={STORAGE_CLASS}")
        self._admin("zonegroup", "placement", "add", "--rgw-zonegroup=default", *of_class)
        self._admin("zone", "placement", "add", "--rgw-zone=default", *of_class,
                    "--data-pool=default.rgw.cold.data")  # fmt: skip
        self._run("radosgw", name, f"--rgw-frontends=beast endpoint=127.0.0.1:{self._port}")
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.client().list_buckets()
            except (BotoCoreError, ClientError) as error:
                if self._running[-1].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the gateway did not start: {error}") from error
                time.sleep(0.3)
            else:
                return

    def _make_key(self, file: Path, name: str, services: Sequence[str]) -> None:
        caps = [word for service in services for word in ("--cap", service, "allow *")]
        self._do("ceph-authtool", "--create-keyring", file, "--gen-key", "-n", name, *caps)

    def _named(self, name: str) -> list[str]:
        return ["-c", str(self.directory / "ceph.conf"), "-n", name]

    def _ceph(self, *words: str) -> None:
        self._do("ceph", *self._named("client.admin"), "--connect-timeout", "60", *words)

    def _admin(self, *words: str) -> None:
        self._do("radosgw-admin", *self._named("client.admin"), *words)

    def _do(self, *command: str | Path) -> None:
        cache.run(command, cwd=self.directory, timeout=START_TIMEOUT)

    def _run(self, program: str, name: str, *words: str) -> None:
        with (self.directory / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                [cache.tool("setpriv", "the cluster"), "--pdeathsig", "KILL", "--", program, "-f",
                 *self._named(name), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )  # fmt: skip
        self._running.append(process)
