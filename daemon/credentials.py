"""Where secrets come from: systemd's credentials, the environment, a ``.env`` file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from daemon.errors import ConfigError

MAX_SECRET = 64 * 1024
"""Bytes that a file of secrets may hold; anything longer is another file by mistake."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$"}


class Credentials:
    """Secrets by name. The first place that has a name wins, even with an empty value."""

    def __init__(self, environ: Mapping[str, str], env_file: Path | None) -> None:
        """Read ``env_file`` where there is one.

        Raises ConfigError where it can't be read, is open to others, or is no list of settings.
        """
        directory = environ.get("CREDENTIALS_DIRECTORY", "")
        self._directory = Path(directory) if directory else None
        self._environ = environ
        self._file = _read_env(env_file) if env_file else {}

    def __repr__(self) -> str:
        """Without what it holds."""
        return "Credentials(…)"

    def get(self, name: str) -> str:
        """The secret of that name, or the empty string.

        Raises ConfigError where its file can't be read, is open to others, or isn't text.
        """
        if self._directory is not None:
            found = _read(self._directory / name, forbidden=stat.S_IWGRP | stat.S_IRWXO)
            if found is not None:
                return found.strip()
        return self._environ.get(name, self._file.get(name, ""))


def variable(destination: str, what: str) -> str:
    """The name of a destination's secret: ``DROPOFF_<NAME>_<WHAT>``."""
    return f"DROPOFF_{destination.upper().replace('-', '_')}_{what}"


def parse_env(text: str) -> dict[str, str]:
    r"""Settings of a ``.env`` file: ``KEY=VALUE``, quotes, ``#`` comments, a leading ``export``.

    Single quotes keep everything as it stands, double quotes know ``\n``, ``\"`` and the like,
    and both may span lines. Nothing is ever expanded. Raises ValueError with the line number, and
    never with what the line holds.
    """
    values: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        setting = line.strip().removeprefix("export ").lstrip()
        if not setting or setting.startswith("#"):
            continue
        name, equals, value = setting.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"line {number}: expected NAME=VALUE")
        while (parsed := _parse_value(value)) is None:
            following = next(lines, None)
            if following is None:
                raise ValueError(f"line {number}: the quote of {name} is never closed")
            value += "\n" + following[1]
        values[name] = parsed
    return values


def _parse_value(value: str) -> str | None:
    """The value without quotes and comment; None where its quote isn't closed yet."""
    if value.startswith("'"):
        inner, closed, _ = value[1:].partition("'")
        return inner if closed else None
    if value.startswith('"'):
        quoted = re.match(r'"((?:[^"\\]|\\.)*)"', value, re.DOTALL)
        if quoted is None:
            return None
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), quoted[1], flags=re.DOTALL)
    return re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()


def _read_env(path: Path) -> dict[str, str]:
    text = _read(path, forbidden=stat.S_IROTH | stat.S_IWOTH)
    try:
        return parse_env(text or "")
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path, forbidden: int) -> str | None:
    """The text of a file of secrets; None where there is none."""
    try:
        # A FIFO must not hang the start, so the open itself never waits.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    try:
        _check_access(path, os.fstat(descriptor).st_mode, forbidden)
        content = os.read(descriptor, MAX_SECRET + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_SECRET:
        raise ConfigError(f"{path}: too long for a file of secrets, expected at most 64 KiB")
    try:
        # Without from: the decoder's own error carries the bytes.
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text") from None


def _check_access(path: Path, mode: int, forbidden: int) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: expected a plain file")
    if mode & forbidden:
        raise ConfigError(
            f"{path}: holds secrets and is open to others (mode {stat.S_IMODE(mode):04o}); "
            f"expected: chmod 600 {path}"
        )
