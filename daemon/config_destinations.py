"""``[destinations.NAME]``: storages, and the secrets that they are reached with."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import msgspec

from daemon.config_checks import host_problem, object_path_problem, url_problem
from daemon.config_file import DestinationTable, Issues, Key, absolute, describe
from daemon.config_s3 import with_options
from daemon.credentials import Credentials, variable
from daemon.settings import Destination
from pipeline.destinations.remote import SFTP_MISSING, has_sftp
from pipeline.destinations.webdav_urls import is_private
from pipeline.messages import DestinationSpec

LAST_PORT = 65535
MIN_RATE = 16 * 1024
"""Bytes a second. Below it storages take our silence for the end."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_ALL = frozenset({"type", "path", "verify", "rate"})
_OWN = {
    "s3": frozenset(
        {
            *("endpoint", "bucket", "region", "addressing", "ca_file", "ca_bundle"),
            *("sse", "sse_kms_key", "storage_class", "object_lock", "tags"),
        }
    ),
    "directory": frozenset({"directory"}),
    "webdav": frozenset({"url", "user", "ca_file", "chunks"}),
    "sftp": frozenset({"host", "port", "user", "host_keys", "directory"}),
}
"""The keys that each type of destination takes beside those of all."""
_HOST_KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/]+={0,2}( .*)?", re.ASCII)
_KEY_TEXT = "-----BEGIN "


class DestinationReader:
    """Makes destinations of their tables, and finds their secrets.

    Without ``credentials`` none is looked for or missed.
    """

    def __init__(self, file: Path, issues: Issues, credentials: Credentials | None) -> None:
        self._file = file
        self._issues = issues
        self._credentials = credentials

    def read(self, tables: dict[str, DestinationTable]) -> dict[str, Destination]:
        """The destinations by name. What can't be used is noted."""
        return {name: self._destination(name, table) for name, table in tables.items()}

    def _destination(self, name: str, table: DestinationTable) -> Destination:
        key = ("destinations", name)
        if not _NAME.fullmatch(name) or name.startswith("inline-"):
            self._issues.add(
                key, "expected a name of letters, digits, - and _ that doesn't begin with inline-"
            )
        if problem := object_path_problem(table.path):
            self._issues.add((*key, "path"), problem)
        if table.rate is not None and table.rate < MIN_RATE:
            self._issues.add((*key, "rate"), 'too slow, expected at least "16KiB/s"')
        return Destination(
            spec=self._spec(name, key, table), path=table.path, rate=int(table.rate or 0)
        )

    def _spec(self, name: str, key: Key, table: DestinationTable) -> DestinationSpec:
        if table.type not in _OWN:
            found = f"found {describe(table.type)}" if table.type else "missing"
            known = ", ".join(f'"{kind}"' for kind in _OWN)
            self._issues.add((*key, "type"), f"{found}, expected one of {known}")
            return DestinationSpec(name=name, type="directory")
        for field in msgspec.structs.fields(table):
            foreign = field.name not in _ALL | _OWN[table.type]
            if foreign and getattr(table, field.name) != field.default:
                self._issues.add((*key, field.name), f'not used by type = "{table.type}"')
        match table.type:
            case "s3":
                return self._s3(name, key, table)
            case "webdav":
                return self._webdav(name, key, table)
            case "sftp":
                return self._sftp(name, key, table)
        return DestinationSpec(
            name=name,
            type="directory",
            verify=table.verify,
            directory=str(self._path((*key, "directory"), table.directory)),
        )

    def _s3(self, name: str, key: Key, table: DestinationTable) -> DestinationSpec:
        if table.endpoint:
            self._check_url((*key, "endpoint"), table.endpoint)
        elif not table.region:
            self._issues.add(
                (*key, "endpoint"), "missing, expected the store's URL, or a region for AWS"
            )
        if not table.bucket:
            self._issues.add((*key, "bucket"), "missing, expected the bucket's name")
        access = self._secret(name, "ACCESS_KEY")
        secret = self._secret(name, "SECRET_KEY")
        if bool(access) != bool(secret):
            self._issues.add(
                key,
                f"expected both {variable(name, 'ACCESS_KEY')} and "
                f"{variable(name, 'SECRET_KEY')}, or none for the AWS credentials chain",
            )
        if table.ca_file and table.ca_bundle:
            self._issues.add((*key, "ca_bundle"), "means the same as ca_file, which is set as well")
        ca_key = "ca_bundle" if table.ca_bundle else "ca_file"
        sse_c_key = self._secret(name, "SSE_C_KEY")
        if table.sse == "sse-c" and not sse_c_key and self._credentials is not None:
            self._issues.add((*key, "sse"), f"set, but {variable(name, 'SSE_C_KEY')} is missing")
        spec = DestinationSpec(
            name=name,
            type="s3",
            verify=table.verify,
            endpoint=table.endpoint.rstrip("/"),
            bucket=table.bucket,
            region=table.region,
            access_key=access,
            secret_key=secret,
            session_token=self._secret(name, "SESSION_TOKEN"),
            ca_file=self._file_of(
                (*key, ca_key), table.ca_bundle or table.ca_file, "CA certificates in PEM"
            ),
        )
        return with_options(spec, table, sse_c_key, key, self._issues)

    def _webdav(self, name: str, key: Key, table: DestinationTable) -> DestinationSpec:
        password = self._secret(name, "PASSWORD")
        if not table.url:
            self._issues.add((*key, "url"), "missing, expected the URL of a collection")
        else:
            self._check_url((*key, "url"), table.url)
        if table.user and not password and self._credentials is not None:
            self._issues.add((*key, "user"), f"set, but {variable(name, 'PASSWORD')} is missing")
        if password and not table.user:
            self._issues.add(
                (*key, "user"), f"missing, expected beside {variable(name, 'PASSWORD')}"
            )
        if table.user and not is_private(table.url):
            self._issues.add(
                (*key, "url"), "expected https://: a password is sent, and not to this machine"
            )
        return DestinationSpec(
            name=name,
            type="webdav",
            verify=table.verify,
            url=table.url.rstrip("/"),
            user=table.user,
            password=password,
            chunks=table.chunks,
            ca_file=self._file_of((*key, "ca_file"), table.ca_file, "CA certificates in PEM"),
        )

    def _sftp(self, name: str, key: Key, table: DestinationTable) -> DestinationSpec:
        if not has_sftp():
            self._issues.add((*key, "type"), SFTP_MISSING)
        if problem := host_problem(table.host):
            self._issues.add((*key, "host"), problem)
        if not 0 < table.port <= LAST_PORT:
            self._issues.add((*key, "port"), f"found {describe(table.port)}, expected 1 to 65535")
        if not table.user:
            self._issues.add((*key, "user"), "missing, expected the user's name")
        if not table.directory.isprintable():
            self._issues.add((*key, "directory"), "expected a directory on the server")
        password, private = self._secret(name, "PASSWORD"), self._private_key(name, key)
        if not password and not private and self._credentials is not None:
            self._issues.add(
                key,
                f"expected {variable(name, 'KEY_FILE')} or {variable(name, 'PASSWORD')} "
                "as a credential, in the environment or in .env",
            )
        return DestinationSpec(
            name=name,
            type="sftp",
            verify=table.verify,
            host=table.host,
            port=table.port,
            user=table.user,
            password=password,
            key=private,
            host_keys=self._host_keys(key, table.host_keys),
            directory=table.directory,
        )

    def _host_keys(self, key: Key, text: str) -> str:
        if not text:
            self._issues.add(
                (*key, "host_keys"),
                'missing, expected the server\'s public key as "ssh-ed25519 AAAA…", '
                "or a known_hosts file (ssh-keyscan makes one)",
            )
            return ""
        if _HOST_KEY.fullmatch(text):
            return text
        return self._file_of((*key, "host_keys"), text, "host keys, as in known_hosts")

    def _private_key(self, name: str, key: Key) -> str:
        """The key itself, where a credential holds it, or the path of its file."""
        value = self._secret(name, "KEY_FILE")
        if not value or value.startswith(_KEY_TEXT):
            return value
        path = absolute(self._file, self._issues, key, value)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            self._issues.add(key, f"{variable(name, 'KEY_FILE')}: {path}: {error.strerror}")
            return str(path)
        if not stat.S_ISREG(mode) or mode & (stat.S_IWGRP | stat.S_IRWXO):
            self._issues.add(
                key,
                f"{path}: holds a private key and is open to others, or no plain file "
                f"(mode {stat.S_IMODE(mode):04o}); expected: chmod 600 {path}",
            )
        return str(path)

    def _secret(self, name: str, what: str) -> str:
        return self._credentials.get(variable(name, what)) if self._credentials is not None else ""

    def _path(self, key: Key, text: str) -> Path:
        return absolute(self._file, self._issues, key, text)

    def _file_of(self, key: Key, text: str, what: str) -> str:
        if not text:
            return ""
        path = self._path(key, text)
        if not path.is_file():
            self._issues.add(key, f"{path}: no such file, expected {what}")
        return str(path)

    def _check_url(self, key: Key, url: str) -> None:
        if problem := url_problem(url):
            self._issues.add(key, problem)
