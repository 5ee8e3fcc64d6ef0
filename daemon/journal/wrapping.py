"""The key file of the state directory, and what it keeps secret inside the journal."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daemon.errors import ConfigError
from pipeline.messages import DestinationSpec

KEY_FILE = "journal.key"
KEY_SIZE = 32
_NONCE_SIZE = 12

PUBLIC_FIELDS = frozenset(
    {
        *("name", "type", "verify", "endpoint", "bucket", "region", "ca_file", "directory"),
        *("user", "url", "chunks", "host", "port", "host_keys"),
        *("addressing", "sse", "sse_kms_key", "storage_class", "tags"),
        *("lock_mode", "lock_days", "legal_hold"),
    }
)
"""What of a destination may stand in the journal in clear. All else is wrapped, so that a field
added later is kept secret until somebody decides otherwise."""


class Wrapper:
    """Wraps secrets with AES-GCM; each blob is bound to its upload and its purpose."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def wrap(self, upload: str, purpose: str, plain: bytes) -> bytes:
        """``plain`` as a blob that can be stored: the nonce, then the sealed bytes."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, plain, _context(upload, purpose))

    def unwrap(self, upload: str, purpose: str, blob: bytes) -> bytes:
        """What ``wrap`` was given. Raises ConfigError where it was made with another key."""
        nonce, sealed = blob[:_NONCE_SIZE], blob[_NONCE_SIZE:]
        try:
            return self._aead.decrypt(nonce, sealed, _context(upload, purpose))
        except InvalidTag as error:
            raise ConfigError(
                f"{KEY_FILE} is not the key that this journal was written with (upload {upload})"
            ) from error


def _context(upload: str, purpose: str) -> bytes:
    return f"{upload}\n{purpose}".encode()


# Made while one thread imports this: msgspec works a type out at its first use, and crashes where
# a second thread uses it meanwhile. After a start all that is due is read at once.
_spec = msgspec.json.Decoder(DestinationSpec)


def split_destination(spec: DestinationSpec) -> tuple[bytes, bytes | None]:
    """A destination as JSON: what may be stored in clear, and what is secret (None: nothing)."""
    fields = msgspec.to_builtins(spec)
    public = {name: value for name, value in fields.items() if name in PUBLIC_FIELDS}
    secret = {name: value for name, value in fields.items() if name not in PUBLIC_FIELDS}
    return msgspec.json.encode(public), msgspec.json.encode(secret) if secret else None


def join_destination(public: str, secret: bytes | None) -> DestinationSpec:
    """The reverse of :func:`split_destination`; without ``secret``, those fields are empty."""
    fields = msgspec.json.decode(public)
    if secret is not None:
        fields |= msgspec.json.decode(secret)
    return _spec.decode(msgspec.json.encode(fields))


def load_key(directory: Path, *, needed: bool) -> bytes:
    """The key of a state directory; made where there is none and nothing was wrapped yet.

    Raises ConfigError where it is ``needed`` and missing, can be read by others, or is no key.
    """
    path = directory / KEY_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if needed:
            raise ConfigError(
                f"{path} is missing, and the journal holds session keys that only it opens: "
                "restore it from where the state directory is backed up"
            ) from None
        return _make_key(path)
    except PermissionError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise ConfigError(f"{path} can be read by others (mode {mode:04o}): expected 0600")
        key = file.read(KEY_SIZE + 1)
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{path} is no key of ours: expected {KEY_SIZE} bytes")
    return key


def _make_key(path: Path) -> bytes:
    # Under a name of its own first: a key file that is only half there after a crash would be
    # taken for a damaged one. Only the holder of the journal's lock comes here.
    key = secrets.token_bytes(KEY_SIZE)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(descriptor)
    fresh.rename(path)
    sync_directory(path.parent)
    return key


def sync_directory(directory: Path) -> None:
    """Make names that were made in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
