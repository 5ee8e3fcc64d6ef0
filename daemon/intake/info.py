"""The ``.info`` files of tus servers: tusd 1 and 2, rustus, tuspyserver → one value.

The same shapes come inside hooks, so :mod:`daemon.intake.events` reads them with this too.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from daemon.errors import InfoError
from daemon.opening import components
from pipeline.errors import SourceUnsafeError

MAX_INFO = 1024 * 1024
"""Bytes of an ``.info`` file or a hook's message."""
INFO_SUFFIX = ".info"

Server = Literal["tusd", "rustus", "tuspyserver"]
T = TypeVar("T")
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_FILENAME_KEYS = ("filename", "name")
_DROPOFF_ID = "dropoff_id"
_RUSTUS_STORAGE = "file_storage"


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a tus server notes of an upload."""

    server: Server
    tus_id: str
    """Empty in tusd's pre-create, where it isn't known yet."""
    size: int | None
    """None while deferred."""
    offset: int | None
    """Bytes acknowledged, where the server keeps it up to date; None at tusd, which doesn't."""
    metadata: dict[str, str]
    is_partial: bool = False
    is_final: bool = False
    partials: tuple[str, ...] = ()
    path: str | None = None
    """Of the data, as the server names it: absolute, or None for the usual place."""
    info_path: str | None = None
    """Of the ``.info``, as the server names it (tusd from 2.5)."""

    @property
    def filename(self) -> str:
        """The client's name for the file, else the tus id; possibly hostile."""
        names = (self.metadata.get(key) for key in _FILENAME_KEYS)
        return next((name for name in names if name), self.tus_id or "upload")

    @property
    def dropoff_id(self) -> str | None:
        """The announcement that pre-create wrote into the metadata."""
        return canonical_uuid(self.metadata.get(_DROPOFF_ID))

    def study(self, key: str) -> str | None:
        """The study's UUID in lower case; None where the metadata has none, or another thing."""
        return canonical_uuid(self.metadata.get(key))


class TusdUpload(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """tusd's FileInfo. rustus' ``tusd`` hook format is nearly the same."""

    id: str = msgspec.field(name="ID")
    size: Size | None = None
    size_is_deferred: bool = False
    meta_data: dict[str, str] | None = None
    metadata: dict[str, str] | None = None
    """How older rustus spells it."""
    is_partial: bool = False
    is_final: bool = False
    partial_uploads: tuple[str, ...] | None = None
    storage: dict[str, Any] | None = None

    def info(self) -> Info:
        """Its meaning."""
        storage = self.storage or {}
        if self.size is None and not self.size_is_deferred:
            raise InfoError("it has no Size")
        return Info(
            server="rustus" if storage.get("Type") == _RUSTUS_STORAGE else "tusd",
            tus_id=self.id,
            size=None if self.size_is_deferred else self.size,
            offset=None,
            metadata=self.meta_data or self.metadata or {},
            is_partial=self.is_partial,
            is_final=self.is_final,
            partials=self.partial_uploads or (),
            # Before 2.5 tusd itself doesn't look at Path, and writes no InfoPath.
            path=_text(storage, "Path") if "InfoPath" in storage else None,
            info_path=_text(storage, "InfoPath"),
        )


class RustusUpload(msgspec.Struct, frozen=True, kw_only=True):
    """rustus' FileInfo."""

    id: str
    offset: Size
    length: Size | None
    path: str | None = None
    deferred_size: bool = False
    is_partial: bool = False
    is_final: bool = False
    parts: tuple[str, ...] | None = None
    storage: str = "file_storage"
    metadata: dict[str, str] | None = None

    def info(self) -> Info:
        """Its meaning."""
        if self.storage.lower().replace("-", "_") not in {_RUSTUS_STORAGE, "filestorage"}:
            raise InfoError(f"rustus keeps the data in {self.storage!r}, expected a local file")
        return Info(
            server="rustus",
            tus_id=self.id,
            size=None if self.deferred_size else self.length,
            offset=self.offset,
            metadata=self.metadata or {},
            is_partial=self.is_partial,
            is_final=self.is_final,
            partials=self.parts or (),
            path=self.path,
        )


class _TuspyserverUpload(msgspec.Struct, frozen=True, kw_only=True):
    size: Size | None
    offset: Size | None = None
    defer_length: bool
    metadata: dict[str, str] | None = None
    is_partial: bool = False
    is_final: bool = False
    partial_uploads: tuple[str, ...] | None = None

    def info(self, tus_id: str) -> Info:
        return Info(
            server="tuspyserver",
            tus_id=tus_id,
            size=None if self.defer_length else self.size,
            # Written after the data: a server that dies in between goes on from here, and appends
            # once more what is there already.
            offset=self.offset,
            metadata=self.metadata or {},
            is_partial=self.is_partial,
            is_final=self.is_final,
            partials=self.partial_uploads or (),
        )


_ABSENT = msgspec.Raw()


class _Keys(msgspec.Struct, frozen=True):
    """Which dialect it is, told by the keys that only one of them has."""

    tusd: msgspec.Raw = msgspec.field(name="ID", default=_ABSENT)
    rustus: msgspec.Raw = msgspec.field(name="length", default=_ABSENT)
    tuspyserver: msgspec.Raw = msgspec.field(name="defer_length", default=_ABSENT)


def parse(data: bytes, stem: str) -> Info:
    """The meaning of an ``.info`` file.

    ``stem`` is its path below the info directory without the suffix, which is the tus id wherever
    the file doesn't hold one. Raises InfoError.
    """
    info = _parse(data, stem)
    if info.tus_id != stem and is_inside(info.tus_id):
        raise InfoError(f"it is of the upload {info.tus_id!r}, expected {stem!r} by its name")
    # An id that leads elsewhere is no matter of shape: it is opening it that is refused.
    return checked(info)


_KEYS = msgspec.json.Decoder(_Keys)
_TUSD = msgspec.json.Decoder(TusdUpload)
_TUSPYSERVER = msgspec.json.Decoder(_TuspyserverUpload)
_RUSTUS = msgspec.json.Decoder(RustusUpload)


def _parse(data: bytes, stem: str) -> Info:
    keys = decode(data, _KEYS)
    if keys.tusd is not _ABSENT:
        return decode(data, _TUSD).info()
    if keys.tuspyserver is not _ABSENT:
        return decode(data, _TUSPYSERVER).info(stem)
    if keys.rustus is not _ABSENT:
        return decode(data, _RUSTUS).info()
    raise InfoError("no tus server's: it has none of ID, length, defer_length")


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """JSON of a known shape. Raises InfoError that says what is wrong with it.

    The decoder is to be made where a module is imported: msgspec works a type out at its first
    use, and crashes where a second thread uses it meanwhile.
    """
    if len(data) > MAX_INFO:
        raise InfoError(f"over {MAX_INFO} bytes")
    if not data:
        raise InfoError("empty")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InfoError(f"not as expected: {error}") from None
    except RecursionError:
        raise InfoError("nested too deeply") from None


def checked(info: Info) -> Info:
    """The same, if its texts can be used as such. Raises InfoError."""
    named = (info.tus_id, info.path or "", info.info_path or "", *info.partials)
    if any("\0" in text for text in named):
        raise InfoError("a NUL in an id or a path")
    try:
        "".join((*named, *info.metadata, *info.metadata.values())).encode()
    except UnicodeEncodeError:
        raise InfoError("a text that is no Unicode") from None
    return info


def is_inside(tus_id: str) -> bool:
    """Whether a tus id names something below the upload directory."""
    try:
        components(tus_id)
    except SourceUnsafeError:
        return False
    return True


def canonical_uuid(text: str | None) -> str | None:
    """A UUID in its usual form, in lower case; None for anything else."""
    return text.lower() if text is not None and _UUID.fullmatch(text) else None


def _text(storage: dict[str, Any], key: str) -> str | None:
    value = storage.get(key)
    if value is not None and not isinstance(value, str):
        raise InfoError(f"Storage.{key} is no text")
    return value or None
