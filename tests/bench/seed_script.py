"""What a post-finish hook commonly is: one Python process for each upload, one step after another.

Encrypt to a temporary file, upload that with the client library's defaults, report. This is the
way that dropoffd replaces; it is measured, not used. Arguments: the endpoint, the file, the
object's name, a recipient's public key file, or `clear` to encrypt nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import aiobotocore.session
import crypt4gh.keys
import crypt4gh.lib
import mohawk
import requests
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

CHUNK = 8 << 20  # boto3's default, as is the number of parts in flight
IN_FLIGHT = 10


def encrypt(source: Path, recipient: Path, out: IO[bytes]) -> None:
    writer = X25519PrivateKey.generate().private_bytes_raw()
    keys = [(0, writer, crypt4gh.keys.get_public_key(str(recipient)))]
    with source.open("rb") as plain:
        crypt4gh.lib.encrypt(keys, plain, out)
    out.flush()


async def upload(endpoint: str, content: IO[bytes], name: str) -> None:
    session = aiobotocore.session.get_session()
    place = {"Bucket": "seed", "Key": name}
    size = content.seek(0, os.SEEK_END)
    async with session.create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    ) as client:
        if size < CHUNK:
            content.seek(0)
            await client.put_object(**place, Body=content.read())
            return
        begun = await client.create_multipart_upload(**place)
        free = asyncio.Semaphore(IN_FLIGHT)

        async def send(number: int) -> dict[str, Any]:
            async with free:
                content.seek((number - 1) * CHUNK)
                answer = await client.upload_part(
                    **place, UploadId=begun["UploadId"], PartNumber=number, Body=content.read(CHUNK)
                )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        count = -(-size // CHUNK)
        parts = await asyncio.gather(*(send(number + 1) for number in range(count)))
        await client.complete_multipart_upload(
            **place, UploadId=begun["UploadId"], MultipartUpload={"Parts": list(parts)}
        )


def report(url: str, name: str) -> None:
    body = json.dumps({"state": "stored", "filename": name})
    credentials = {"id": "bench", "key": "bench", "algorithm": "sha256"}
    kind = "application/json"
    sender = mohawk.Sender(credentials, url, "POST", content=body, content_type=kind)
    headers = {"Authorization": sender.request_header, "Content-Type": kind}
    requests.post(url, data=body, headers=headers, timeout=30).raise_for_status()


def main(endpoint: str, file: str, name: str, recipient: str) -> int:
    source = Path(file)
    if recipient == "clear":
        with source.open("rb") as plain:
            asyncio.run(upload(endpoint, plain, name))
        report(endpoint + "/_report", name)
        return 0
    with tempfile.NamedTemporaryFile(dir=source.parent, suffix=".c4gh") as sealed:
        encrypt(source, Path(recipient), sealed.file)
        asyncio.run(upload(endpoint, sealed.file, name))
    report(endpoint + "/_report", name)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
