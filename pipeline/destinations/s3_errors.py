"""What an S3 store's answers, and its silence, mean for a delivery."""

from __future__ import annotations

import html
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from botocore import exceptions as boto

from pipeline.destinations.wording import printable, reason
from pipeline.errors import (
    DestinationError,
    DestinationRefusedError,
    DestinationUnreachableError,
    ForgottenError,
    VerificationError,
)


class MissingError(DestinationRefusedError):
    """No object, or nothing at all, under that key."""


class StandsError(DestinationRefusedError):
    """A condition wasn't met: an object stands under the key already (412)."""


class ConflictingError(DestinationRefusedError):
    """Somebody else writes to the same key at this moment (409)."""


class UnsupportedError(DestinationRefusedError):
    """The store doesn't know what it was asked for."""


_BY_CODE: Final[dict[str, type[DestinationError]]] = {
    "NoSuchUpload": ForgottenError,
    "InvalidPart": ForgottenError,
    "InvalidPartOrder": ForgottenError,
    "BadDigest": VerificationError,
    "XAmzContentChecksumMismatch": VerificationError,
    "NoSuchKey": MissingError,
    "NotFound": MissingError,
    "PreconditionFailed": StandsError,
    "ConditionalRequestConflict": ConflictingError,
    "NotImplemented": UnsupportedError,
    "MethodNotAllowed": UnsupportedError,
    "InternalError": DestinationUnreachableError,
    "InternalFailure": DestinationUnreachableError,
    "IncompleteBody": DestinationUnreachableError,
    "OperationAborted": DestinationUnreachableError,
    "RequestTimeTooSkewed": DestinationUnreachableError,
    "RequestTimeout": DestinationUnreachableError,
    "ServiceUnavailable": DestinationUnreachableError,
    "SlowDown": DestinationUnreachableError,
    "Throttling": DestinationUnreachableError,
    "ThrottlingException": DestinationUnreachableError,
    "TooManyRequests": DestinationUnreachableError,
}
_BY_STATUS: Final[dict[int, type[DestinationError]]] = {
    404: MissingError,
    405: UnsupportedError,
    408: DestinationUnreachableError,
    409: ConflictingError,
    412: StandsError,
    425: DestinationUnreachableError,
    429: DestinationUnreachableError,
    501: UnsupportedError,
}
_REFUSING: Final = (
    boto.NoCredentialsError,
    boto.NoRegionError,
    boto.ParamValidationError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.UnsupportedSignatureVersionError,
)


def of_answer(status: int, code: str, message: str) -> DestinationError:
    """The error that a store's refusal stands for."""
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None or (kind is MissingError and code == "NoSuchBucket"):
        kind = DestinationRefusedError
        if status >= 500:  # noqa: PLR2004  # HTTP's own border
            kind = DestinationUnreachableError
    said = printable(message)
    return kind(f"the store answered {status} {printable(code)}" + (f": {said}" if said else ""))


def of_client_error(error: boto.ClientError) -> DestinationError:
    """Likewise, of one that botocore read."""
    answer: Mapping[str, Any] = error.response
    told: Mapping[str, Any] = answer.get("Error") or {}
    status = int((answer.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
    code = str(told.get("Code") or "")
    # HEAD has no body; its "code" is the status.
    return of_answer(status, "" if code.isdigit() else code, str(told.get("Message") or ""))


def of_body(status: int, body: bytes) -> DestinationError:
    """Likewise, of an answer that was read by hand."""
    return of_answer(status, _element("Code", body), _element("Message", body))


def of_transport(error: Exception) -> DestinationError:
    """The error of a request that got no answer. Addresses in the text may carry signatures."""
    if isinstance(error, _REFUSING):
        return DestinationRefusedError(f"the request can't be made: {type(error).__name__}")
    if isinstance(error, TimeoutError | boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return DestinationUnreachableError("the store didn't answer in time")
    if isinstance(error, ssl.SSLError | boto.SSLError | aiohttp.ClientSSLError):
        return DestinationUnreachableError("no secure connection: the certificate isn't trusted")
    said = reason(error)
    return DestinationUnreachableError(
        f"no connection, or one that broke: {type(error).__name__}" + (f" ({said})" * bool(said))
    )


def _element(name: str, body: bytes) -> str:
    """The text of an element without children; no parser for hostile XML is needed for that."""
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), body)
    return html.unescape(found[1].decode(errors="replace")) if found else ""
