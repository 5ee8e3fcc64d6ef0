"""What a WebDAV server's answers, and its silence, mean for a delivery."""

from __future__ import annotations

import html
import re
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp

from pipeline.destinations.retry import asked_to_wait
from pipeline.destinations.wording import insecure, printable, reason
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
)


class MissingError(DestinationRefusedError):
    """Nothing there (404, 410)."""


class NoParentError(DestinationRefusedError):
    """The collection above it isn't there (409)."""


class StandsError(DestinationRefusedError):
    """A condition wasn't met: something stands there already (412)."""


class BadRequestError(DestinationRefusedError):
    """The server sees no sense in the request, or what it has doesn't fit it (400)."""


class UnsupportedError(DestinationRefusedError):
    """The server doesn't do that, or not there (405, 501)."""


_BY_STATUS: Final[dict[int, type[DestinationError]]] = {
    HTTPStatus.BAD_REQUEST: BadRequestError,
    HTTPStatus.NOT_FOUND: MissingError,
    HTTPStatus.GONE: MissingError,
    HTTPStatus.CONFLICT: NoParentError,
    HTTPStatus.PRECONDITION_FAILED: StandsError,
    HTTPStatus.METHOD_NOT_ALLOWED: UnsupportedError,
    HTTPStatus.NOT_IMPLEMENTED: UnsupportedError,
    HTTPStatus.REQUEST_TIMEOUT: DestinationUnreachableError,
    HTTPStatus.LOCKED: DestinationUnreachableError,
    HTTPStatus.TOO_EARLY: DestinationUnreachableError,
    HTTPStatus.TOO_MANY_REQUESTS: DestinationUnreachableError,
    # The quota is used up: that is the user's to settle, not time's.
    HTTPStatus.INSUFFICIENT_STORAGE: DestinationRefusedError,
}


def of_answer(status: int, body: bytes, retry_after: str | None = None) -> DestinationError:
    """The error that an answer stands for; ``retry_after`` is its header of that name."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = DestinationUnreachableError if server else DestinationRefusedError
    said = _message(body)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        said = "it sends us elsewhere, where no password is sent to"
    said = f"the server answered {status}" + (f": {said}" if said else "")
    pause = asked_to_wait(retry_after)
    busy = status == HTTPStatus.SERVICE_UNAVAILABLE and pause is not None
    if busy or status == HTTPStatus.TOO_MANY_REQUESTS:
        return DestinationUnreachableError(said, throttled=True, retry_after=pause)
    return kind(said)


def of_transport(error: Exception) -> DestinationError:
    """The error of a request that got no whole answer."""
    if isinstance(error, TimeoutError):
        return DestinationUnreachableError("the server didn't answer in time")
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return DestinationUnreachableError(insecure(error))
    said = reason(error)
    return DestinationUnreachableError(
        f"no connection, or one that broke: {type(error).__name__}" + (f" ({said})" if said else "")
    )


def _message(body: bytes) -> str:
    """The message of an error as sabre/dav writes it; no XML parser is needed for that."""
    found = re.search(rb"<s:message>([^<]*)</s:message>", body)
    return printable(html.unescape(found[1].decode(errors="replace"))) if found else ""
