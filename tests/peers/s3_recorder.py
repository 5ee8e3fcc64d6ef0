"""A store that only writes down what it is asked, and an object's two ways to any S3 store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from pipeline.destinations.base import PartPlace
from pipeline.destinations.s3 import S3Destination
from pipeline.messages import DestinationSpec, StoredObject, Target
from tests.peers.deliveries import MIB, BytesBody
from tests.peers.s3_between import COMPLETE, CREATE, GET, HEAD, PARTS, PUT, Between, operation

PIECES = [os.urandom(5 * MIB), os.urandom(100)]
TAGS = operation("GET", query="tagging")
LOCKS = operation("GET", query="object-lock")
LOCKING = (
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>"
    "</ObjectLockConfiguration>"
)


@asynccontextmanager
async def recording(target: Target) -> AsyncIterator[Between]:
    """A running one, which keeps locks and tags, and has nothing under the key at first."""
    async with Between() as server:
        server.answer(TAGS, 200, "<Tagging><TagSet></TagSet></Tagging>", times=2)
        server.answer(LOCKS, 200, LOCKING, times=4)
        server.answer(HEAD, 404)
        server.answer(CREATE, 200, "<R><UploadId>u1</UploadId></R>", times=2)
        server.answer(operation("DELETE"), 204, times=10)
        server.answer(PARTS, 200, headers={"ETag": '"part"'}, times=2)
        server.answer(PUT, 200, headers={"ETag": '"whole"'})
        server.answer(COMPLETE, 200, "<R><ETag>whole</ETag></R>")
        about = {
            "x-amz-meta-dropoffd-upload": target.upload,
            "x-amz-tagging-count": "1",
            "x-amz-object-lock-mode": "GOVERNANCE",
            "x-amz-object-lock-retain-until-date": "2999-01-01T00:00:00Z",
            "x-amz-object-lock-legal-hold": "ON",
            "ETag": '"whole"',
        }
        body = "x" * target.size
        server.answer(HEAD, 200, body, times=10, headers=about)
        server.answer(lambda request: "Range" in request.headers, 206, body, times=10)
        server.answer(GET, 200, body, times=10)
        yield server


def asking_of(server: Between) -> DestinationSpec:
    """It as a destination."""
    return DestinationSpec(
        name="fake",
        type="s3",
        endpoint=server.url,
        bucket="store",
        verify="size",
        access_key="key",
        secret_key="secret",
    )


def headers_of(fake: Between, method: str, query: str) -> list[dict[str, str]]:
    return [
        {name.lower(): value for name, value in seen.headers.items()}
        for seen in fake.seen
        if seen.method == method and (not query or query in seen.query)
    ]


async def deliver(spec: DestinationSpec, target: Target) -> StoredObject:
    store = S3Destination(spec)
    try:
        reference = await store.begin(target, stale=False)
        parts = [
            await store.put_part(
                target, reference, PartPlace(number=n, offset=0, size=len(piece)), BytesBody(piece)
            )
            for n, piece in enumerate(PIECES, 1)
        ]
        return await store.finish(target, reference, parts)
    finally:
        await store.aclose()


async def deliver_whole(spec: DestinationSpec, target: Target) -> StoredObject:
    store = S3Destination(spec)
    try:
        return await store.put(target, BytesBody(b"".join(PIECES)), stale=True)
    finally:
        await store.aclose()


Way = Callable[[DestinationSpec, Target], Awaitable[StoredObject]]
