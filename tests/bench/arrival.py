"""How long after its last byte an upload is stored and reported, however large it is.

`python -m tests.bench.arrival [--sizes 256MiB,1GiB] [--rate 100MB] [--runs 3]` sends uploads
through a real tusd at a steady rate, to a daemon that delivers them to SeaweedFS and reports to
`dropoffd api`, with `follow` on and off. The time is from tusd's answer to the last PATCH to the
acknowledged `stored` report.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import aiohttp

from daemon.units import format_size, parse_size
from pipeline.envelope import keys
from tests.peers.dropoffd import Dropoffd
from tests.peers.reference_api import ReferenceServer
from tests.peers.seaweedfs import Weed
from tests.peers.tusd import Tusd

CHUNK = 1024 * 1024
STUDY = str(uuid.uuid4())


async def steadily(size: int, rate: float) -> AsyncIterator[bytes]:
    """Random bytes, ``rate`` of them each second."""
    block = os.urandom(CHUNK)
    began, sent = time.monotonic(), 0
    while sent < size:
        piece = block[: min(CHUNK, size - sent)]
        yield piece
        sent += len(piece)
        await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))


async def send(url: str, size: int, rate: float) -> float:
    """Send an upload in one PATCH, and give the time of tusd's answer to it."""
    metadata = f"study {base64.b64encode(STUDY.encode()).decode()}"
    create = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": metadata}
    patch = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
    }
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.post(url, headers=create) as created:
            location = created.headers["Location"]
        async with session.patch(location, data=steadily(size, rate), headers=patch) as sent:
            sent.raise_for_status()
            return time.time()


def acknowledged_at(daemon: Dropoffd, count: int) -> float:
    """When the ``stored`` report of the last upload was acknowledged; waits for it."""

    def stored() -> list[str]:
        lines = [line for line in daemon.metrics if line["event"] == "report"]
        return [line["ts"] for line in lines if line["state"] == "stored"]

    daemon.wait_for(lambda: len(stored()) == count, 300, "it is stored and reported")
    return datetime.fromisoformat(stored()[-1]).timestamp()


def measure(sizes: list[int], rate: float, *, follow: bool) -> dict[int, float]:
    """The seconds by size, once each, to a store of its own: it has no room for many runs."""
    with tempfile.TemporaryDirectory() as place, Weed(Path(place) / "weed") as weed:
        directory = Path(place)
        weed.make_bucket("arrival")
        (directory / "api").mkdir()
        pair = keys.crypt4gh_generate()
        (directory / "recipient.pub").write_text(pair.public)
        study = (
            f'[studies."{STUDY}"]\nencrypt = "crypt4gh"\n'
            f'recipients = ["{directory}/recipient.pub"]\ndestinations = ["archive"]\n'
            '[destinations.archive]\ntype = "s3"\nbucket = "b"\nregion = "us-east-1"\n'
        )
        config = (
            f'[destinations.archive]\ntype = "s3"\nendpoint = "{weed.endpoint}"\n'
            'bucket = "arrival"\nregion = "us-east-1"\n'
            f"[pipeline]\nfollow = {str(follow).lower()}\n"
        )
        with ReferenceServer(directory / "api", study, path="/") as api:
            secrets = {
                **api.asked_at(api.api.url),
                "DROPOFF_ARCHIVE_ACCESS_KEY": weed.access_key,
                "DROPOFF_ARCHIVE_SECRET_KEY": weed.secret_key,
            }
            with Dropoffd(directory / "daemon", config, secrets) as daemon:
                hooks = directory / "hooks"
                daemon.cli("install", "hooks", "--directory", str(hooks), "--server", "tusd")
                with Tusd(daemon.uploads, hooks=hooks) as tusd:
                    found = {}
                    for count, size in enumerate(sizes, start=1):
                        ended = asyncio.run(send(tusd.url, size, rate))
                        found[size] = acknowledged_at(daemon, count) - ended
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="256MiB,1GiB")
    parser.add_argument("--rate", type=parse_size, default=100_000_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    sizes = [parse_size(size) for size in arguments.sizes.split(",")]
    print(f"seconds after the last byte, medians of {arguments.runs} runs")  # noqa: T201
    print(f"{'size':>10} {'follow':>10} {'no follow':>10}")  # noqa: T201
    ways = [
        [measure(sizes, arguments.rate, follow=follow) for follow in (True, False)]
        for _ in range(arguments.runs)
    ]
    for size in sizes:
        on, off = (statistics.median(run[way][size] for run in ways) for way in (0, 1))
        print(f"{format_size(size):>10} {on:>10.2f} {off:>10.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
