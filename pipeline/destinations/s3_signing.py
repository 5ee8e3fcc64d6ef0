"""Addresses of parts, each signed like the first one.

botocore finds the endpoint, checks and encodes all parameters for each address anew, which for a
part of 16 MiB takes a hundredth of the time that the part takes. Of an upload's parts only the
number differs: botocore signs the first, and the others take over all but number, time and
signature, which is counted by the library that counts botocore's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from aiobotocore.credentials import AioCredentials
from awscrt import auth, http
from yarl import URL

KEPT: Final = 64
"""Uploads whose addresses are known."""
NUMBER: Final = "partNumber="

_ADDED: Final = "X-Amz-"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "s3"


class Pattern(NamedTuple):
    """What the addresses of an upload's parts have in common."""

    origin: str
    host: str
    path: str
    """With all of the query but the number and what signing adds; ends with ``&`` or ``?``."""
    region: str
    expires: int
    """Seconds."""


def pattern_of(signed: URL) -> Pattern | None:
    """What a part's signed address shows of those of all others.

    None where more than the host is signed, or not in the usual way: such are left to botocore.
    """
    parts = urlsplit(str(signed))
    query = parse_qs(parts.query)
    scope = query.get("X-Amz-Credential", [""])[0].split("/")
    plain = (
        query.get("X-Amz-Algorithm") == [_ALGORITHM]
        and query.get("X-Amz-SignedHeaders") == ["host"]
        and scope[3:] == [_SERVICE, "aws4_request"]
    )
    if not plain:
        return None
    kept = [each for each in parts.query.split("&") if not each.startswith((_ADDED, NUMBER))]
    return Pattern(
        origin=f"{parts.scheme}://{parts.netloc}",
        host=signed.host_port_subcomponent or parts.netloc,
        path="&".join([f"{parts.path}?{'&'.join(kept)}", ""]),
        region=scope[2],
        expires=int(query["X-Amz-Expires"][0]),
    )


async def sign(pattern: Pattern, number: int, credentials: AioCredentials) -> URL:
    """The address of part ``number``, signed by ``credentials`` as they are valid now."""
    now = await credentials.get_frozen_credentials()
    keys = auth.AwsCredentialsProvider.new_static(now.access_key, now.secret_key, now.token)
    request = http.HttpRequest(
        "PUT", f"{pattern.path}{NUMBER}{number}", http.HttpHeaders([("host", pattern.host)])
    )
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
        credentials_provider=keys,
        region=pattern.region,
        service=_SERVICE,
        use_double_uri_encode=False,
        should_normalize_uri_path=False,
        signed_body_value="UNSIGNED-PAYLOAD",
        expiration_in_seconds=pattern.expires,
    )
    auth.aws_sign_request(request, config).result()  # done already: nothing is asked of anybody
    return URL(pattern.origin + request.path, encoded=True)


class Patterns:
    """What is known of addresses, by object and multipart upload; None: left to botocore."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Pattern | None] = OrderedDict()

    def find(self, key: str, upload: str) -> Pattern | None:
        """Of that upload; None where there is none to go by."""
        return self._known.get((key, upload))

    def learn(self, key: str, upload: str, signed: URL) -> None:
        """Take it from an address that botocore signed."""
        self._known[key, upload] = pattern_of(signed)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
