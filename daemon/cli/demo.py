"""`dropoffd demo`: the whole way of one upload, seen from start to end."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.cli.stage import Stage
    from daemon.journal.model import UploadDetails

MIB = 1024 * 1024
DONE_TIMEOUT = 3600.0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo``."""
    demo = commands.add_parser(
        "demo",
        help="the whole way of an upload in one go, to see and to check",
        description="Start a REST API, the daemon and a tus server in a directory of their own, "
        "send one upload through them, decrypt what was stored, and compare.",
    )
    demo.add_argument(
        "--size", type=_size, default="64MiB", help="of the upload that is made (%(default)s)"
    )
    demo.add_argument("--file", type=Path, help="send this file instead")
    demo.add_argument("--directory", type=Path, help="work in this new or empty directory")
    demo.add_argument("--keep", action="store_true", help="keep the directory afterwards")
    demo.add_argument("--json", action="store_true", help="the summary as JSON")
    demo.set_defaults(run=run)


@dataclass
class Summary:
    """What the demo did. Seconds and bytes."""

    filename: str
    size: int
    server: str
    receive_seconds: float
    deliver_seconds: float
    object: str
    object_size: int
    verified: str
    sha256: str
    decrypted_sha256: str
    reports: list[str]

    @property
    def ok(self) -> bool:
        """Whether what came out is what went in."""
        return self.sha256 == self.decrypted_sha256


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. Exit code 0 only if the decrypted bytes equal the sent ones."""
    directory, keep = _directory(arguments.directory), arguments.keep
    try:
        summary = asyncio.run(_demo(directory, arguments.file, arguments.size))
    except BaseException:
        sys.stderr.write(f"what it left is in {directory}\n")
        raise
    if arguments.json:
        shown = {**vars(summary), "ok": summary.ok, "directory": str(directory)}
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        _show(summary)
    if keep or arguments.directory is not None:
        sys.stderr.write(f"{directory} is kept\n")
    else:
        shutil.rmtree(directory)
        sys.stderr.write(f"{directory} is removed again; --keep keeps it\n")
    return 0 if summary.ok else 1


def _size(text: str) -> int:
    from daemon.units import parse_size  # noqa: PLC0415 -- as every command: only when it runs

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _directory(chosen: Path | None) -> Path:
    if chosen is None:
        return Path(tempfile.mkdtemp(prefix="dropoffd-demo-"))
    chosen.mkdir(parents=True, exist_ok=True)
    if any(chosen.iterdir()):
        from daemon.cli.stage import StageError  # noqa: PLC0415

        raise StageError(f"{chosen} is not empty, expected a new directory")
    return chosen.resolve()


async def _demo(directory: Path, file: Path | None, size: int) -> Summary:
    from daemon.cli.stage import Stage  # noqa: PLC0415

    source = file
    if source is None:
        source = await asyncio.to_thread(_make, directory / "sample.bam", size)
    async with Stage(directory) as stage:
        if not stage.tusd:
            sys.stderr.write(
                "tusd is not on PATH: the upload is laid out in the upload directory as tusd does\n"
            )
        return await _follow(stage, source)


async def _follow(stage: Stage, source: Path) -> Summary:
    from daemon.cli.bars import Bars  # noqa: PLC0415
    from daemon.cli.sender import lay_out, send  # noqa: PLC0415

    size = (await asyncio.to_thread(source.stat)).st_size
    metadata = {"filename": source.name, "study": stage.study}
    began = time.monotonic()
    with Bars(size) as bars:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(stage, bars.delivered))
            if stage.tusd:
                sha256 = await send(stage.tus_url, source, size, metadata, bars.received)
            else:
                sha256 = await lay_out(stage.uploads, source, size, metadata, bars.received)
            received = time.monotonic()
            details = await watching
    stored = time.monotonic()
    (delivery,) = details.deliveries
    path = stage.store / delivery.name
    opened = await asyncio.to_thread(_decrypted_sha256, path, stage.secret_key)
    return Summary(
        filename=source.name,
        size=size,
        server="tusd" if stage.tusd else "none: laid out by the demo",
        receive_seconds=received - began,
        deliver_seconds=stored - received,
        object=str(path.relative_to(stage.directory)),
        object_size=delivery.size,
        verified=delivery.stored.verified if delivery.stored else "",
        sha256=sha256,
        decrypted_sha256=opened,
        reports=[f"{report.state}: {report.status}" for report in details.reports],
    )


async def _watch(stage: Stage, tell: Callable[[int], None]) -> UploadDetails:
    """Wait until the one upload is over, and give all that the journal knows of it."""
    from daemon.cli.stage import StageError  # noqa: PLC0415
    from daemon.journal.sqlite import SqliteJournal  # noqa: PLC0415

    async with asyncio.timeout(DONE_TIMEOUT):
        while True:
            stage.check()
            status = await stage.status()
            if status["uploads"]["done"] or status["uploads"]["failed"]:
                break
            tell(sum(active["stored_bytes"] for active in status["deliveries"]))
            await asyncio.sleep(0.05)
    journal = SqliteJournal.open_readonly(stage.state)
    (upload,) = await journal.uploads(None, None, 1)
    details = await journal.details(upload.id)
    if upload.error is not None:
        raise StageError(f"the upload failed: {upload.error.code}: {upload.error.message}")
    tell(details.deliveries[0].size)
    return details


def _make(path: Path, size: int) -> Path:
    """A file of random bytes."""
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(os.urandom(min(left, MIB)))
    return path


def _decrypted_sha256(path: Path, secret_key: Path) -> str:
    from pipeline.envelope import by_format, keys  # noqa: PLC0415

    digest = hashlib.sha256()
    secret = keys.crypt4gh_secret(secret_key.read_text(), lambda: b"")
    with path.open("rb") as file:
        for piece in by_format("crypt4gh").open_stream(file, secret):
            digest.update(piece)
    return digest.hexdigest()


def _show(summary: Summary) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from daemon.units import format_duration, format_size  # noqa: PLC0415

    table = Table(title="dropoffd demo", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in (
        ("upload", f"{summary.filename}, {format_size(summary.size)}"),
        ("tus server", summary.server),
        ("received in", format_duration(summary.receive_seconds)),
        ("delivered after", format_duration(summary.deliver_seconds)),
        ("object", summary.object),
        ("encrypted", f"Crypt4GH, {format_size(summary.object_size)}"),
        ("verified by", summary.verified),
        ("reports", ", ".join(summary.reports)),
        ("SHA-256 sent", summary.sha256),
        ("SHA-256 decrypted", summary.decrypted_sha256),
        ("result", "the decrypted bytes are the sent ones" if summary.ok else "THEY DIFFER"),
    ):
        table.add_row(name, text)
    Console().print(table)
