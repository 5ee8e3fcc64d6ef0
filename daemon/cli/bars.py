"""The demo's progress on a terminal: what came in, and what is stored."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


class Bars:
    """Two bars on standard error; nothing at all where that is no terminal."""

    def __init__(self, size: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:9}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._received = self._progress.add_task("received", total=size)
        self._delivered = self._progress.add_task("delivered", total=size)

    def __enter__(self) -> Self:
        """Show them."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave them as they are."""
        self._progress.stop()

    def received(self, size: int) -> None:
        """So many bytes came in."""
        self._progress.update(self._received, completed=size)

    def delivered(self, size: int) -> None:
        """So many sealed bytes are stored."""
        self._progress.update(self._delivered, completed=size)
