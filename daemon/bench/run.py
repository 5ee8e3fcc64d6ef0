"""All measurements, one after the other, so that none disturbs another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from daemon.bench.crew import Crew
from daemon.bench.disk import read, scratch, write
from daemon.bench.figures import REPETITIONS, Figure
from daemon.bench.usage import cores, moment
from daemon.settings import Settings
from pipeline.messages import DigestName

Tell = Callable[[str], object]
"""Is told what is measured next."""


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured."""

    settings: Settings | None
    """None: the machine alone, and the disk of the temporary directory."""
    size: int
    """Bytes of the file that is written, read and delivered."""
    seconds: float
    """For each measurement of the machine, all its repetitions together."""

    def run(self, tell: Tell) -> tuple[list[Figure], float]:
        """The figures, and the share of the processors that others used meanwhile.

        Blocks. Raises WorkerLostError where a process of ours is ended from outside.
        """
        figures, others = self._processors(tell)
        directory = Path(tempfile.gettempdir())
        if self.settings is not None:
            directory = self.settings.uploads.directory
        try:
            with scratch(directory, self.size) as fd:
                tell(f"the disk of {directory}")
                figures.append(write(directory, fd, self.size))
                figures.append(read(directory, fd, self.size, self.seconds / REPETITIONS))
                figures.extend(self._destinations(fd, tell))
        except OSError as error:
            message = f"{error.filename or directory}: {error.strerror}"
            title = f"the disk of {directory}"
            figures.append(Figure(name="read", subject=str(directory), title=title, error=message))
        return figures, others

    def _processors(self, tell: Tell) -> tuple[list[Figure], float]:
        chosen: DigestName = "sha256"
        if self.settings is not None:
            chosen = self.settings.pipeline.digest
        count = cores()
        wanted = [
            ("seal", "seal", "one core", "sealing on one core", 1, False),
            ("seal", "seal", "all cores", f"sealing on all {count} cores", count, True),
            *(
                ("digest", name, name, f"the {name} of one upload, on one core", 1, name == chosen)
                for name in ("sha256", "blake3")
            ),
        ]
        figures, used = [], 0.0
        with Crew(count) as crew:
            before = moment()
            for name, work, subject, title, members, needed in wanted:
                tell(title)
                samples = tuple(
                    crew.measure(work, self.seconds / REPETITIONS, members)
                    for _ in range(REPETITIONS)
                )
                used += sum(sample.cpu_seconds for sample in samples)
                figures.append(
                    Figure(name=name, subject=subject, title=title, samples=samples, needed=needed)
                )
            others = moment().others_since(before, used)
        return figures, others

    def _destinations(self, source: int, tell: Tell) -> list[Figure]:
        if self.settings is None or not self.settings.destinations:
            return []
        return asyncio.run(self._deliver(self.settings, source, tell))

    async def _deliver(self, settings: Settings, source: int, tell: Tell) -> list[Figure]:
        from daemon.bench.delivering import Deliveries  # noqa: PLC0415  # dear; only for these
        from daemon.workers import WorkerPool  # noqa: PLC0415  # likewise

        figures = []
        async with WorkerPool(settings.pipeline.workers) as pool:
            deliveries = Deliveries(pool, settings.pipeline, source, self.size)
            for name, destination in settings.destinations.items():
                tell(f"deliveries to {name}")
                figures.append(await deliveries.measure(name, destination))
        return figures
