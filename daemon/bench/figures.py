"""What was measured, and what of it is the narrowest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

GIB: Final = 1024**3
REPETITIONS: Final = 3
"""Of every measurement: their median counts, and the spread is shown."""
BUSY: Final = 0.9
"""Share of the processors from which on they are what holds things up."""

NOISY: Final = 0.1
"""Share of the processors that others may use without being mentioned."""


class Sample(NamedTuple):
    """One repetition."""

    size: int
    """Bytes."""
    seconds: float
    cpu_seconds: float
    """Of the processes that did it, user and system."""
    busy: float = 0.0
    """Share of all processors that was in use meanwhile, by whomever."""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.size / self.seconds


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured, or why it could not be."""

    name: str
    """For scripts: ``seal``, ``digest``, ``read``, ``write``, ``destination``."""
    subject: str
    """Which one: ``one core``, ``all cores``, the digest's name, a directory, a destination."""
    title: str
    """For people, in a sentence."""
    samples: tuple[Sample, ...] = ()
    needed: bool = True
    """Whether all bytes of an upload have to pass through it."""
    note: str = ""
    error: str = ""

    @property
    def rate(self) -> float:
        """Bytes per second: the median."""
        return statistics.median(sample.rate for sample in self.samples)

    @property
    def lowest(self) -> float:
        """Of the repetitions."""
        return min(sample.rate for sample in self.samples)

    @property
    def highest(self) -> float:
        """Of the repetitions."""
        return max(sample.rate for sample in self.samples)

    @property
    def cpu_seconds_per_gib(self) -> float:
        """The median."""
        return statistics.median(each.cpu_seconds / each.size for each in self.samples) * GIB

    @property
    def busy(self) -> float:
        """The median."""
        return statistics.median(sample.busy for sample in self.samples)


def narrowest(figures: Sequence[Figure]) -> tuple[Figure | None, list[Figure]]:
    """What lets through the least, and what can't be told apart from it.

    None where nothing was measured that an upload has to pass.
    """
    passed = [figure for figure in figures if figure.needed and figure.samples]
    if not passed:
        return None, []
    least = min(passed, key=lambda figure: figure.rate)
    return least, [
        figure for figure in passed if figure is not least and figure.lowest <= least.highest
    ]


def sentence(figures: Sequence[Figure]) -> str:
    """What holds this machine back, for people."""
    least, close = narrowest(figures)
    if least is None:
        return "Nothing could be measured that an upload has to pass."
    text = f"The narrowest part is {least.title}, {gigabytes(least.rate)} GB/s"
    if least.name == "destination" and least.busy >= BUSY:
        text += f", while the processors were {least.busy:.0%} busy: they hold it back, too"
    if close:
        text += f"; too close to tell apart: {', '.join(figure.title for figure in close)}"
    return text + "."


def gigabytes(rate: float) -> str:
    """Bytes per second in GB/s, with digits enough for slow ones."""
    number = rate / 1e9
    return f"{number:.2f}" if number >= 0.1 else f"{number:.4f}"  # noqa: PLR2004 - three digits tell enough
