"""What an S3 store's answers, and its silence, mean for a delivery."""

from __future__ import annotations

import html
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from botocore import exceptions as boto

from pipeline.destinations.retry import asked_to_wait
from pipeline.destinations.wording import insecure, printable, reason
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


class ExpiredError(DestinationUnreachableError):
    """The credentials, or what was signed with them, are no longer valid: new ones may be."""


class ElsewhereError(DestinationRefusedError):
    """The bucket is in another region than the one that was signed for."""

    def __init__(self, message: str, region: str) -> None:
        super().__init__(message)
        self.region = region
        """Which one; empty where the store doesn't say."""


class AddressingError(DestinationRefusedError):
    """The store wants the bucket in the host's name and not in the path."""


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
    "ExpiredToken": ExpiredError,
    "ExpiredTokenException": ExpiredError,
    "RequestExpired": ExpiredError,
    "TokenRefreshRequired": ExpiredError,
    "PathStyleDomainForbidden": AddressingError,
    "SecondLevelDomainForbidden": AddressingError,
    "VirtualHostDomainRequired": AddressingError,
}
_THROTTLING: Final = frozenset(
    {
        *("SlowDown", "SlowDownRead", "SlowDownWrite", "BandwidthLimitExceeded"),
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded"),
        *("TooManyRequests", "TooManyRequestsException"),
        *("RequestThrottled", "RequestThrottledException"),
    }
)
_ELSEWHERE: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)
_TOO_MANY: Final = 429
_BUSY: Final = 503
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


def of_answer(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    region: str = "",
) -> DestinationError:
    """The error that a store's refusal stands for.

    ``headers`` are by name in lower case; ``region`` is the one that the error's text names.
    """
    headers = headers or {}
    said = f"the store answered {status} {printable(code)}"
    if message:
        said += f": {printable(message)}"
    pause = asked_to_wait(headers.get("retry-after"))
    if code in _THROTTLING or status == _TOO_MANY or (status == _BUSY and pause is not None):
        return DestinationUnreachableError(said, throttled=True, retry_after=pause)
    region = headers.get("x-amz-bucket-region", "") or region
    # Only errors that are about the place tell of a wrong one: others name the right one as well.
    if code in _ELSEWHERE or status == 301 or (status == 400 and not code):  # noqa: PLR2004  # HTTP's
        return ElsewhereError(said, region)
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if status == 403 and "request has expired" in message.lower():  # noqa: PLR2004  # HTTP's
        kind = ExpiredError  # a signed address that was used too late
    if kind is None or (kind is MissingError and code == "NoSuchBucket"):
        kind = DestinationRefusedError
        if status >= 500:  # noqa: PLR2004  # HTTP's own border
            kind = DestinationUnreachableError
    if kind is ExpiredError:
        said = f"the credentials have expired, or this machine's clock is wrong; {said}"
    return kind(said)


def of_client_error(error: boto.ClientError) -> DestinationError:
    """Likewise, of one that botocore read."""
    answer: Mapping[str, Any] = error.response
    told: Mapping[str, Any] = answer.get("Error") or {}
    metadata: Mapping[str, Any] = answer.get("ResponseMetadata") or {}
    status = int(metadata.get("HTTPStatusCode") or 0)
    code = str(told.get("Code") or "")
    headers = {str(k).lower(): str(v) for k, v in (metadata.get("HTTPHeaders") or {}).items()}
    return of_answer(
        status,
        "" if code.isdigit() else code,  # HEAD has no body; its "code" is the status
        str(told.get("Message") or ""),
        headers,
        str(told.get("Region") or ""),
    )


def of_body(status: int, body: bytes, headers: Mapping[str, str]) -> DestinationError:
    """Likewise, of an answer that was read by hand."""
    by_name = {name.lower(): value for name, value in headers.items()}
    code, message = _element("Code", body), _element("Message", body)
    return of_answer(status, code, message, by_name, _element("Region", body))


def of_transport(error: Exception) -> DestinationError:
    """The error of a request that got no answer. Addresses in the text may carry signatures."""
    if isinstance(error, _REFUSING):
        return DestinationRefusedError(f"the request can't be made: {type(error).__name__}")
    if isinstance(error, TimeoutError | boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return DestinationUnreachableError("the store didn't answer in time")
    if isinstance(error, ssl.SSLError | boto.SSLError | aiohttp.ClientSSLError):
        return DestinationUnreachableError(insecure(error))
    said = reason(error)
    return DestinationUnreachableError(
        f"no connection, or one that broke: {type(error).__name__}" + (f" ({said})" * bool(said))
    )


def _element(name: str, body: bytes) -> str:
    """The text of an element without children; no parser for hostile XML is needed for that."""
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), body)
    return html.unescape(found[1].decode(errors="replace")) if found else ""
