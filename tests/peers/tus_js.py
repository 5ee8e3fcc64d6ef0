"""npm's tus-js-client, the client of most web pages, in a Node process for each upload."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.peers import cache

HERE = Path(__file__).parent / "tus_js_client"
_KIB = 1024


def installed() -> Path:
    """A directory with node_modules as package.json wants them; PeerMissingError without npm."""
    npm = cache.tool("npm", "tus-js-client")
    wanted = HERE / "package.json"

    def install(into: Path) -> None:
        shutil.copy(wanted, into)
        cache.run([npm, "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=into)

    return cache.built("tus-js", [wanted], install)


@dataclass(frozen=True)
class TusJs:
    """An upload, from the options of tus-js-client to its end, by one process or several.

    Args:
        file: What is sent; beside it lies what outlives a process.
        endpoint: Where uploads are made.
        metadata: Of the upload; the parts of a parallel one have its ``study``.
        parallel: How many parts are sent side by side.
        deferred: Whether the file is a stream that doesn't tell its length.
    """

    file: Path
    endpoint: str
    metadata: dict[str, str]
    parallel: int = 1
    deferred: bool = False

    async def upload(self) -> str:
        """Send it, or the rest of it, and give its URL."""
        told = json.loads(await self._run({}, 0))
        return str(told["url"])

    async def die(self, after: int) -> None:
        """Send it up to there, and be killed."""
        await self._run({"stop_at": after}, -9)

    async def take_back(self, after: int) -> None:
        """Send it up to there, and terminate it."""
        told = json.loads(await self._run({"terminate_at": after}, 0))
        assert told["terminated"]

    async def _run(self, how: dict[str, int], expected: int) -> str:
        options = {
            "endpoint": self.endpoint,
            "metadata": self.metadata,
            "metadataForPartialUploads": {"study": self.metadata["study"]},
            "chunkSize": 256 * _KIB,
            "parallelUploads": self.parallel,
            "uploadLengthDeferred": self.deferred,
            "retryDelays": [100, 200, 400],
        }
        modules = installed() / "package.json"
        given = {
            "modules": str(modules),
            "file": str(self.file),
            "urls": f"{self.file}.urls",
            "upload": options,
            "stream": self.deferred,
            **how,
        }
        place = self.file.with_name(self.file.name + ".options")
        place.write_text(json.dumps(given))
        process = await asyncio.create_subprocess_exec(
            cache.tool("node", "tus-js-client"),
            str(HERE / "upload.js"),
            str(place),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == expected, errors.decode()
        return out.decode()
