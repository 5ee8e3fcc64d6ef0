"""A small object in one PUT, put together and signed here.

botocore takes each request through its rules, hooks and models anew, which costs more than all else
that a worker does for a small object. So it is asked once for each connection where objects go;
its model says which parameter is which header, and its signer signs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote

from aiobotocore.credentials import AioCredentials
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from yarl import URL

_ANY_KEY: Final = "key"
_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"
_AT_ONCE: Final = 1024 * 1024
"""Bytes that aiohttp takes as they are; it wants to read more than that by itself."""
_OF_ANOTHER_KIND: Final = ":", "--x-s3"
"""In the names of access points, and at the end of those of buckets with sessions of their own."""
_TOLD: Final = {
    "ETag": "ETag",
    "ChecksumCRC64NVME": "x-amz-checksum-crc64nvme",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
}
"""What is used of an answer: botocore's names, and the headers."""


class _Place(NamedTuple):
    """Where the objects of a bucket go, and what their requests are signed for."""

    address: str
    """Up to the key."""
    host: str
    region: str
    service: str


class Put(NamedTuple):
    """A request that is ready to be sent."""

    url: URL
    headers: dict[str, str]
    data: bytes | io.BytesIO


def is_plain(bucket: str) -> bool:
    """Whether a bucket's objects are put by an address and a signature like all others."""
    inside, end = _OF_ANOTHER_KIND
    return inside not in bucket and not bucket.endswith(end)


class Putting:
    """Makes the requests of one client of botocore's."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401  # botocore makes its classes when it runs
        credentials: AioCredentials | None,
    ) -> None:
        self._meta = client.meta
        self._client = client
        self._credentials = credentials
        self._places: dict[str, _Place] = {}

    async def request(
        self,
        bucket: str,
        key: str,
        data: bytes,
        parameters: Mapping[str, object],
        headers: Mapping[str, str],
    ) -> Put:
        """What botocore would send for ``put_object``.

        ``parameters`` are its own, but for bucket, key and body, and what ``headers`` say.
        """
        place = await self._place_of(bucket)
        url = place.address + quote(key, safe="/~")
        said = {"Host": place.host, **self._headers_of(parameters), **headers}
        request = AWSRequest(method="PUT", url=url, headers=said)
        request.context["client_config"] = self._meta.config  # says that bodies aren't signed
        now = self._credentials and await self._credentials.get_frozen_credentials()
        S3SigV4Auth(now, place.service, place.region).add_auth(request)
        body = data if len(data) <= _AT_ONCE else io.BytesIO(data)
        # What a proxy may change is not signed.
        also = {"User-Agent": str(self._meta.config.user_agent), "Accept-Encoding": "identity"}
        return Put(URL(url, encoded=True), {**also, **dict(request.headers.items())}, body)

    async def _place_of(self, bucket: str) -> _Place:
        """As botocore finds it out, by its rules for the kind of store and of bucket."""
        if bucket not in self._places:
            signed: str = await self._client.generate_presigned_url(
                "put_object", Params={"Bucket": bucket, "Key": _ANY_KEY}
            )
            address, _, query = signed.partition("?")
            *_, region, service, _ = parse_qs(query)["X-Amz-Credential"][0].split("/")
            url = URL(address, encoded=True)
            # As it is written for us to sign, and as aiohttp sends it.
            host = url.host_port_subcomponent or url.authority
            self._places[bucket] = _Place(address.removesuffix(_ANY_KEY), host, region, service)
        return self._places[bucket]

    def _headers_of(self, parameters: Mapping[str, object]) -> dict[str, str]:
        members = self._meta.service_model.operation_model("PutObject").input_shape.members
        headers: dict[str, str] = {}
        for name, value in parameters.items():
            header = members[name].serialization["name"]
            if isinstance(value, Mapping):
                headers |= {header + key: str(each) for key, each in value.items()}
            elif isinstance(value, datetime):
                headers[header] = value.astimezone(UTC).strftime(_ISO)
            else:
                headers[header] = str(value)
        return headers


def told(headers: Mapping[str, str]) -> dict[str, Any]:
    """An answer as botocore gives it, as far as it matters."""
    return {name: headers[header] for name, header in _TOLD.items() if header in headers}
