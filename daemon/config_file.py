"""The shape of config.toml as it is written, and the reading that finds every mistake in it."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from daemon.errors import ConfigError
from daemon.settings import MIB
from daemon.units import (
    DURATION_EXAMPLE,
    RATE_EXAMPLE,
    SIZE_EXAMPLE,
    parse_duration,
    parse_rate,
    parse_size,
)

_LONGEST_NUMBER = 128
"""Bits of a number that a message repeats."""

Key = tuple[str, ...]
TableT = TypeVar("TableT", bound=msgspec.Struct)


class Size(int):
    """Bytes, written as text such as ``16MiB``."""


class Rate(int):
    """Bytes a second, written as text such as ``200MiB/s``."""


class Duration(float):
    """Seconds, written as text such as ``30s``."""


class Celery(str):
    """``true``, ``false`` or ``auto``, the first two written as TOML has them."""

    __slots__ = ()


class UploadsTable(msgspec.Struct):
    """``[uploads]``."""

    directory: str = "/srv/tusd"
    info_directory: str = ""
    rescan: Duration = Duration(30)
    study_key: str = "study"
    delete: str = "delivered"
    roots: tuple[str, ...] = ()


class SpoolTable(msgspec.Struct):
    """``[spool]``."""

    directory: str = "/var/spool/dropoffd"


class StateTable(msgspec.Struct):
    """``[state]``."""

    directory: str = "/var/lib/dropoffd"


class AmqpTable(msgspec.Struct):
    """``[hooks.amqp]``."""

    url: str = ""
    ca_bundle: str = ""
    exchange: str = "rustus"
    exchange_kind: Literal["topic", "direct", "fanout", "headers"] = "topic"
    routing_key: str = ""
    queues_prefix: str = "rustus"
    celery: Celery = Celery("auto")
    durable_exchange: bool = True
    durable_queues: bool = True


class HooksTable(msgspec.Struct):
    """``[hooks]``."""

    socket: str = "/run/dropoffd/hooks.sock"
    listen: str = ""
    timeout: Duration = Duration(10)
    study_ids: bool = False
    amqp: AmqpTable | None = None


class PathsTable(msgspec.Struct):
    """``[api.paths]``."""

    announce: str = "uploads/"
    study: str = "studies/{study}/"
    report: str = "uploads/{upload}/reports/"


class ApiTable(msgspec.Struct):
    """``[api]``."""

    url: str = ""
    sign_as: str = ""
    unsigned_answers: bool = False
    inline_destinations: tuple[str, ...] = ()
    timeout: Duration = Duration(30)
    ca_file: str = ""
    paths: PathsTable = msgspec.field(default_factory=PathsTable)


class PipelineTable(msgspec.Struct):
    """``[pipeline]``."""

    workers: int = 0
    deliveries: int = 8
    memory: Size = Size(64 * MIB)
    part_size: Size = Size(16 * MIB)
    digest: Literal["sha256", "blake3"] = "sha256"
    give_up: Duration = Duration(7 * 86400)
    follow: bool = True
    follow_after: Size = Size(64 * MIB)
    stop_timeout: Duration = Duration(30)


class ObjectLockTable(msgspec.Struct):
    """``[destinations.NAME.object_lock]``."""

    mode: Literal["", "GOVERNANCE", "COMPLIANCE"] = ""
    days: int = 0
    legal_hold: bool = False


class DestinationTable(msgspec.Struct):
    """``[destinations.NAME]``."""

    type: str = ""
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    ca_file: str = ""
    ca_bundle: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    sse: Literal["", "sse-s3", "sse-kms", "sse-c"] = ""
    sse_kms_key: str = ""
    storage_class: str = ""
    object_lock: ObjectLockTable | None = None
    tags: dict[str, str] | None = None
    directory: str = ""
    url: str = ""
    chunks: bool = True
    host: str = ""
    port: int = 22
    user: str = ""
    host_keys: str = ""
    path: str = "{study}/{upload}/{filename}"
    rate: Rate | None = None
    verify: Literal["checksum", "readback", "size"] = "checksum"


class StudyTable(msgspec.Struct):
    """``[studies."UUID"]``."""

    encrypt: Literal["crypt4gh", "age", "none"] = "crypt4gh"
    recipients: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    open: bool = True
    max_size: Size | None = None


class File(msgspec.Struct):
    """The whole of config.toml."""

    uploads: UploadsTable = msgspec.field(default_factory=UploadsTable)
    spool: SpoolTable = msgspec.field(default_factory=SpoolTable)
    state: StateTable = msgspec.field(default_factory=StateTable)
    hooks: HooksTable = msgspec.field(default_factory=HooksTable)
    api: ApiTable = msgspec.field(default_factory=ApiTable)
    pipeline: PipelineTable = msgspec.field(default_factory=PipelineTable)
    destinations: dict[str, DestinationTable] = {}
    studies: dict[str, StudyTable] = {}


class Issues:
    """The mistakes of one config.toml, each with its key and, where it can be told, its line."""

    def __init__(self, file: Path, text: str = "") -> None:
        self._file = file
        self._lines = locate(text)
        self._found: dict[Key, str] = {}

    def add(self, key: Key, message: str) -> None:
        """Note a mistake. The first one of a key stays; what follows from it is no news."""
        self._found.setdefault(key, message)

    def raise_any(self) -> None:
        """Raise one ConfigError that names them all, in the order of their lines."""
        if self._found:
            places = sorted(self._found, key=lambda key: (self._line(key) or 0, key))
            raise ConfigError("\n".join(self._tell(key) for key in places))

    def _line(self, key: Key) -> int | None:
        for length in range(len(key), 0, -1):
            if line := self._lines.get(key[:length]):
                return line
        return None

    def _tell(self, key: Key) -> str:
        line = self._line(key)
        place = f"{self._file}:{line}" if line else str(self._file)
        return f"{place}: {dotted(key)}: {self._found[key]}"


def read(file: Path, text: str, issues: Issues) -> File:
    """The tables of config.toml; what can't be used is noted and left at its default.

    Raises ConfigError where it is no TOML at all.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_syntax_place(file, text, str(error))}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: not usable: too deeply nested") from None
    except ValueError:  # of Python's own limit, which tomllib lets through
        raise ConfigError(f"{file}: not usable: a number of too many digits") from None
    return _table(File, found, (), issues)


def absolute(file: Path, issues: Issues, key: Key, text: str) -> Path:
    """The path that a text names: absolute, or from the file's directory on."""
    if not text or "\0" in text:
        issues.add(key, "missing, expected a path")
    # Without resolving links: the operator's path may be one on purpose.
    return Path(os.path.normpath(file.parent / text.replace("\0", "")))


def dotted(key: Key) -> str:
    """A key as TOML writes it: ``studies."1111…".open``."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + part.replace('"', '\\"') + '"'
        for part in (part.encode("unicode_escape").decode() for part in key)
    )


def describe(value: object) -> str:
    """What was found, in TOML's words and not too long."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            long = isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER
            return "a number of too many digits" if long else f"the number {value}"
        case str():
            return f'"{shorten(value)}"'
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def shorten(text: str, limit: int = 60) -> str:
    """Text from the file for an error message: on one line, harmless on a terminal."""
    clean = text.encode("unicode_escape").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def locate(text: str) -> dict[Key, int]:
    """The line, from 1, of each table's and each key's first appearance, as far as lines tell."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?([^\[\]]+)\]", line):
            table = _parse_key(header[1])
            lines.setdefault(table, number)
        # Possessive: a long line that is no setting must not be tried in every way.
        elif setting := re.match(r"""\s*+((?:[\w\-. \t]|"[^"]*"|'[^']*')++)=""", line):
            key = table + _parse_key(setting[1])
            for length in range(len(table) + 1, len(key) + 1):
                lines.setdefault(key[:length], number)
    lines.pop((), None)
    return lines


def _parse_key(text: str) -> Key:
    try:
        found: Any = tomllib.loads(f"{text} = 0")
    except (ValueError, RecursionError):
        return ()
    key: list[str] = []
    while isinstance(found, dict) and found:
        name, found = next(iter(found.items()))
        key.append(name)
    return tuple(key)


def _syntax_place(file: Path, text: str, message: str) -> str:
    if found := re.search(r"at line (\d+)", message):
        return f"{file}:{found[1]}"
    return f"{file}:{max(1, len(text.splitlines()))}"


def _table(shape: type[TableT], found: Mapping[str, Any], key: Key, issues: Issues) -> TableT:
    """Read each key by itself, so that one mistake doesn't hide the next."""
    fields = {field.name: field.type for field in msgspec.structs.fields(shape)}
    values: dict[str, Any] = {}
    for name, value in found.items():
        place = (*key, name)
        if name not in fields:
            issues.add(place, _unknown(name, place, fields))
        elif (read_value := _value(fields[name], value, place, issues)) is not None:
            values[name] = read_value
    return shape(**values)


def _value(kind: Any, value: object, key: Key, issues: Issues) -> Any:  # noqa: ANN401 - any field
    """The value as its field's type, or None where it is none, which is noted."""
    if isinstance(kind, UnionType):
        kind = next(member for member in get_args(kind) if member is not NoneType)
    table = _as_table(kind)
    by_name = _as_table(get_args(kind)[1]) if get_origin(kind) is dict else None
    if isinstance(value, dict):
        if table:
            return _table(table, value, key, issues)
        if by_name:
            return {
                name: read_value
                for name, entry in value.items()
                if (read_value := _value(by_name, entry, (*key, name), issues)) is not None
            }
    try:
        return msgspec.convert(value, kind, dec_hook=_parse)
    except msgspec.ValidationError:
        issues.add(key, f"found {describe(value)}, expected {_expected(kind)}")
        return None


def _as_table(kind: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401 - any field's type
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _parse(kind: type, value: object) -> object:
    if isinstance(value, str) and kind is Size:
        return Size(parse_size(value))
    if isinstance(value, str) and kind is Rate:
        return Rate(parse_rate(value))
    if isinstance(value, str) and kind is Duration:
        return Duration(parse_duration(value))
    if kind is Celery and (isinstance(value, bool) or value == "auto"):
        return Celery(str(value).lower())
    raise ValueError("not text")


def _expected(kind: Any) -> str:  # noqa: ANN401 - any field's type
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of texts"
    names = {
        str: "a text in quotes",
        bool: "true or false",
        int: "a whole number",
        Size: SIZE_EXAMPLE,
        Rate: RATE_EXAMPLE,
        Duration: DURATION_EXAMPLE,
        Celery: 'true, false or "auto"',
    }
    return names.get(kind, "a table")


_SECRET_WORDS = {
    "hawk_key": "DROPOFF_API_HAWK_KEY",
    "hawk_secret": "DROPOFF_API_HAWK_SECRET",
    "access_key": "DROPOFF_{name}_ACCESS_KEY",
    "secret_key": "DROPOFF_{name}_SECRET_KEY",
    "session_token": "DROPOFF_{name}_SESSION_TOKEN",
    "password": "DROPOFF_{name}_PASSWORD",
    "key_file": "DROPOFF_{name}_KEY_FILE",
    "sse_c_key": "DROPOFF_{name}_SSE_C_KEY",
}


def _unknown(name: str, place: Key, known: Mapping[str, object]) -> str:
    """The message for a key that isn't known. Its value is never told: it may be a secret."""
    if secret := _SECRET_WORDS.get(name):
        owner = place[-2].upper().replace("-", "_") if len(place) > 1 else "NAME"
        return (
            "secrets are never in config.toml; "
            f"expected {secret.format(name=owner)} as a credential, in the environment or in .env"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"
