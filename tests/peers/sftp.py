"""SFTP servers: OpenSSH's, with a configuration and keys of its own, and ``rclone serve sftp``."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh

from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.seaweedfs import free_ports

PRIVILEGE_SEPARATION = Path("/run/sshd")
"""sshd wants this directory where root starts it; systemd makes it elsewhere."""


def new_key(path: Path, passphrase: str | None = None) -> str:
    """Make a key pair; the public key as one line."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(path, passphrase=passphrase, rounds=1, ignore_few_rounds=True)
    path.chmod(0o600)
    return key.export_public_key().decode().strip()


class OpenSsh(ServerProcess):
    """``sshd`` for the user of the tests, by key only, with nothing but SFTP."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.directory = directory / "store"
        self.directory.mkdir()
        self.user = getpass.getuser()
        self.key_file = directory / "client_key"
        (directory / "authorized_keys").write_text(new_key(self.key_file) + "\n")
        self.host_key = new_key(directory / "host_key")
        (port,) = free_ports(1)
        config = directory / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory / 'host_key'}\n"
            f"AuthorizedKeysFile {directory / 'authorized_keys'}\nPidFile none\nUsePAM no\n"
            "StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
            f"ForceCommand internal-sftp {'-R' if read_only else ''}\nMaxStartups 100\n"
        )
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise cache.PeerMissingError("no `sshd`, which the SFTP tests need")
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        command = [program, "-D", "-e", "-f", str(config)]
        super().__init__(command, port, directory / "sshd.log")

    def known_hosts(self, path: Path) -> Path:
        """A known_hosts file with this server in it."""
        path.write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")
        return path


class RcloneSftp(ServerProcess):
    """Serves ``directory / "store"`` to a user with a password.

    What it was given it keeps in its cache; look into it by asking.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "store"
        self.directory.mkdir()
        self.user = "tests"
        self.password = "tests-password"
        self.host_key = new_key(directory / "host_key")
        (port,) = free_ports(1)
        command = [
            *(cache.tool("rclone", "rclone serve sftp"), "serve", "sftp", "--config", ""),
            *("--user", self.user, "--pass", self.password),
            *("--key", str(directory / "host_key"), "--addr", f"127.0.0.1:{port}"),
            # Parts are written where they belong, so the server has to keep a file as one. It
            # sometimes loses one that is renamed while it is written back, so that waits.
            *("--vfs-cache-mode", "writes", "--vfs-write-back", "1h"),
            *("--cache-dir", str(directory / "cache"), str(self.directory)),
        ]
        super().__init__(command, port, directory / "rclone.log")

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """A session of another client than the one under test."""
        async with (
            asyncssh.connect(
                "127.0.0.1",
                self.port,
                username=self.user,
                password=self.password,
                known_hosts=None,
                config=None,
            ) as connection,
            connection.start_sftp_client() as session,
        ):
            yield session
