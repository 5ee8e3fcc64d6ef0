"""How the demo's upload gets into the upload directory: by tus, or laid out as tusd does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp
import aiohttp.web
import yarl

from daemon.cli.stage import StageError

CHUNK = 1024 * 1024


async def send(
    url: str, source: Path, size: int, metadata: Mapping[str, str], tell: Callable[[int], None]
) -> str:
    """Send a file to a tus server, in one PATCH, and give its SHA-256 (hex)."""
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(size),
        "Upload-Metadata": ",".join(
            f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items()
        ),
    }
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.post(url, headers=headers) as created:
            if created.status != aiohttp.web.HTTPCreated.status_code:
                raise StageError(f"tusd said {created.status}: {await created.text()}")
            location = yarl.URL(url).join(yarl.URL(created.headers["Location"]))
        digest = hashlib.sha256()
        async with session.patch(
            location,
            data=_chunks(source, digest, tell),
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": "0",
                "Content-Type": "application/offset+octet-stream",
            },
        ) as sent:
            if sent.status != aiohttp.web.HTTPNoContent.status_code:
                raise StageError(f"tusd said {sent.status}: {await sent.text()}")
    return digest.hexdigest()


async def lay_out(
    directory: Path,
    source: Path,
    size: int,
    metadata: Mapping[str, str],
    tell: Callable[[int], None],
) -> str:
    """Do what tusd does on disk: empty data, then ``.info``, then append. Gives the SHA-256."""
    name = secrets.token_hex(16)
    path = directory / name
    info = {
        "ID": name,
        "Size": size,
        "SizeIsDeferred": False,
        "Offset": 0,
        "MetaData": dict(metadata),
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": {
            "InfoPath": f"{path}.info",
            "Path": str(path),
            "Type": "filestore",
        },
    }
    digest = hashlib.sha256()
    with await asyncio.to_thread(path.open, "wb", buffering=0) as out:
        await asyncio.to_thread(path.with_name(f"{name}.info").write_text, json.dumps(info))
        async for chunk in _chunks(source, digest, tell):
            await asyncio.to_thread(out.write, chunk)
    return digest.hexdigest()


async def _chunks(
    source: Path, digest: hashlib._Hash, tell: Callable[[int], None]
) -> AsyncIterator[bytes]:
    done = 0
    with await asyncio.to_thread(source.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            digest.update(chunk)
            yield chunk
            done += len(chunk)
            tell(done)
