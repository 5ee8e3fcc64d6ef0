"""Key pairs as files on disk."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import NamedTuple

from pipeline.envelope.age import MAGIC, Age
from pipeline.envelope.age_keys import age_secrets, is_age_secret
from pipeline.envelope.armour import MAX_TEXT
from pipeline.envelope.base import Passphrase
from pipeline.envelope.keys import KeyPair, crypt4gh_secret
from pipeline.errors import EnvelopeError
from pipeline.messages import EnvelopeFormat


class SecretKey(NamedTuple):
    """A recipient's secret key, or what else opens a file."""

    format: EnvelopeFormat
    raw: bytes
    """32 bytes; empty where there is only a passphrase."""
    more: tuple[bytes, ...] = ()
    """Further ones of the same file, any of which may fit."""
    passphrase: Passphrase | None = None
    """Of a file that is sealed by one and not for a key."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All of them."""
        return (self.raw, *self.more) if self.raw else ()

    def __repr__(self) -> str:
        """Without the secret."""
        return f"SecretKey(format={self.format!r})"


def only_passphrase(passphrase: Passphrase) -> SecretKey:
    """What opens a file that is sealed by a passphrase; only age has such."""
    return SecretKey("age", b"", (), passphrase)


def read_secret(path: Path, passphrase: Passphrase) -> SecretKey:
    """The secret key in a file, which may be protected by a passphrase.

    For Crypt4GH that is its own container, for age an age file. Raises EnvelopeError, and
    OSError where it can't be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    if data.startswith(MAGIC):
        data = _unsealed(data, passphrase)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise EnvelopeError("this is no file of a secret key") from None
    if is_age_secret(text):
        raw, *more = age_secrets(text)
        return SecretKey("age", raw, tuple(more))
    return SecretKey("crypt4gh", crypt4gh_secret(text, passphrase))


def write_pair(pair: KeyPair, path: Path) -> tuple[Path, Path]:
    """Write the secret key to ``path`` (mode 0600) and the public one to ``path.pub``.

    Gives both paths. Never replaces a file: raises FileExistsError where one of them is there.
    Nothing of a pair is left behind where writing fails.
    """
    public = path.with_name(path.name + ".pub")
    if os.path.lexists(public):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(public))
    _write_new(path, pair.secret, 0o600)
    try:
        _write_new(public, pair.public, 0o644)
    except BaseException:
        path.unlink()
        raise
    return path, public


def _unsealed(data: bytes, passphrase: Passphrase) -> bytes:
    opened, rest = Age().open_header(io.BytesIO(data), (), passphrase)
    return b"".join(bytes(piece) for piece in opened.segments(rest, 0, is_end=True))


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise
