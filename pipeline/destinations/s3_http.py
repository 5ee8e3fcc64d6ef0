"""How botocore's control calls go out: to the endpoint and nowhere else, and with answers that end.

By itself its HTTP session follows redirects to wherever a store names, reads an answer however long
it is, and its parser takes document types. A bucket in another region is found out by what the
answer says, never by following it.
"""

from __future__ import annotations

from typing import Any, Final
from xml.parsers import expat

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from yarl import URL

LONGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes. The longest that is asked for is a list of 1000 keys or parts."""


class CautiousSession(AIOHTTPSession):  # type: ignore[misc]  # the library is untyped
    """botocore's HTTP session, kept to the endpoint."""

    async def _get_session(self, proxy_url: str | None) -> _Requests:
        return _Requests(await super()._get_session(proxy_url))


class _Requests:
    """What botocore uses of an aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, url: URL, **options: Any) -> _Answer:  # noqa: ANN401  # passed on as they come
        """A request whose redirect is an answer like any other."""
        return _Answer(
            await self._session.request(method, url, **{**options, "allow_redirects": False})
        )


class _Answer:
    """What botocore uses of an aiohttp answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.url = response.url
        self.status = response.status
        self.raw_headers = response.raw_headers

    async def read(self) -> bytes:
        """The whole body. Raises ClientPayloadError where it is none that a store sends."""
        try:
            body = await limited(self._response, LONGEST_ANSWER)
        except BaseException:
            self._response.close()
            raise
        self._response.release()
        if body and _has_document_type(body):
            raise aiohttp.ClientPayloadError("the answer has a document type")
        return body


def stay_there(params: dict[str, Any], **_: object) -> None:
    """Keep botocore from looking for a bucket's region by itself, for each request once more.

    Of a store that answers everything with a redirect it would ask again without end.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


async def limited(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body. Raises ClientPayloadError where it has more than ``most`` bytes."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise aiohttp.ClientPayloadError(f"the answer has more than {most} bytes")
    return bytes(body)


class _PrologEnd(Exception):  # noqa: N818  # no error: it ends the parsing
    """The first element: no document type can follow."""


class _DocumentType(Exception):  # noqa: N818  # likewise
    """Only that makes entities, which may be large, or lead elsewhere."""


def _has_document_type(body: bytes) -> bool:
    """Whether an XML text declares one. What is no XML has none."""
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _on_document_type
    parser.StartElementHandler = _on_element
    try:
        parser.Parse(body, True)  # noqa: FBT003  # its only way to say that this is all
    except _DocumentType:
        return True
    except (_PrologEnd, expat.ExpatError, ValueError):
        return False
    return False


def _on_document_type(*_: object) -> None:
    raise _DocumentType


def _on_element(*_: object) -> None:
    raise _PrologEnd
