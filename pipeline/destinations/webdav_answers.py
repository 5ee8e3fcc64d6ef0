"""Reading of ``207 Multi-Status``."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit
from xml.parsers import expat  # without document types there are no entities

import msgspec

from pipeline.errors import DestinationUnreachableError

PROPFIND: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>'
    b'<d:propfind xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns"><d:prop>'
    b"<d:getcontentlength/><d:getetag/><d:resourcetype/><oc:checksums/>"
    b"</d:prop></d:propfind>"
)
"""Asks for what :class:`Resource` has."""

_GOOD: Final = re.compile(r"HTTP/\S+ 2\d\d\b")
_MD5: Final = re.compile(r"\bMD5:([0-9a-f]{32})\b", re.IGNORECASE)


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A file or collection as the server lists it."""

    path: str
    """Of its address, decoded, without a slash at its end."""
    size: int | None = None
    """None where the server doesn't tell, or for a collection."""
    etag: str = ""
    """As it has to be sent back, quotes included."""
    collection: bool = False
    md5: str = ""
    """Hex; empty where the server has none."""

    @property
    def name(self) -> str:
        """The last step of its path."""
        return self.path.rpartition("/")[2]


def bare(etag: str) -> str:
    """An ETag without what HTTP puts around it."""
    return etag.removeprefix("W/").strip('"')


def resources(body: bytes) -> list[Resource]:
    """What a multi-status answer lists. Raises DestinationUnreachableError where it is none."""
    reader = _Reader()
    try:
        reader.read(body)
    except (expat.ExpatError, ValueError) as error:
        raise DestinationUnreachableError("the server's answer is no multi-status") from error
    return reader.found


class _Reader:
    """Collects the resources while the parser goes over the text."""

    def __init__(self) -> None:
        self.found: list[Resource] = []
        self._text: list[str] = []
        self._href = ""
        self._status = ""
        self._told: dict[str, str] = {}
        self._properties: dict[str, str] = {}

    def read(self, body: bytes) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = _no_document_type
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.Parse(body, True)  # noqa: FBT003  # its only way to say that this is all

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        del attributes
        self._text.clear()
        if name == "DAV: response":
            self._href, self._properties = "", {}
        elif name == "DAV: propstat":
            self._status, self._told = "", {}

    def _end(self, name: str) -> None:
        text = "".join(self._text).strip()
        self._text.clear()
        match name:
            case "DAV: href":
                self._href = self._href or text
            case "DAV: status":
                self._status = text
            case "DAV: propstat":
                if _GOOD.match(self._status):
                    self._properties |= self._told
            case "DAV: response":
                self.found.append(_resource(self._href, self._properties))
            case "DAV: collection":
                self._told["collection"] = "yes"
            case "DAV: getcontentlength" | "DAV: getetag":
                self._told[name.removeprefix("DAV: ")] = text
            case "http://owncloud.org/ns checksum" | "http://owncloud.org/ns checksums":
                self._told["checksums"] = f"{self._told.get('checksums', '')} {text}"


def _resource(href: str, properties: dict[str, str]) -> Resource:
    length = properties.get("getcontentlength", "")
    md5 = _MD5.search(properties.get("checksums", ""))
    return Resource(
        path=unquote(urlsplit(href).path).rstrip("/"),
        size=int(length) if length.isascii() and length.isdigit() else None,
        etag=properties.get("getetag", ""),
        collection="collection" in properties,
        md5=md5[1].lower() if md5 else "",
    )


def _no_document_type(*_: object) -> None:
    raise ValueError("a document type, which no server has a use for")
