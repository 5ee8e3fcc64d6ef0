"""What the oracle says: how much was lost, is there twice, or was left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field


class LostError(AssertionError):
    """Bytes that nobody has as they were sent, or that nobody was told of."""


class TwiceError(AssertionError):
    """Something is there more than once, or was told more than once."""


class OrphanError(AssertionError):
    """Something is left that nobody knows of any more."""


@dataclass
class Verdict:
    """What was found of some uploads; verdicts add up."""

    uploads: int = 0
    failed: int = 0
    """Those of them that failed, with their source in place."""
    lost: int = 0
    twice: int = 0
    orphans: int = 0
    wrong: list[str] = field(default_factory=list)
    """All that isn't as it has to be, in words."""

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.uploads + other.uploads,
            self.failed + other.failed,
            self.lost + other.lost,
            self.twice + other.twice,
            self.orphans + other.orphans,
            self.wrong + other.wrong,
        )

    def __str__(self) -> str:
        failed = f" ({self.failed} failed, as they had to)" if self.failed else ""
        others = len(self.wrong) - self.lost - self.twice - self.orphans
        return (
            f"{self.uploads} uploads{failed}: {self.lost} lost, {self.twice} twice,"
            f" {self.orphans} orphans, {others} otherwise wrong"
        )

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Take down what doesn't hold, and go on."""
        try:
            yield
        except (AssertionError, LookupError, ValueError, OSError) as error:
            self.lost += isinstance(error, LostError)
            self.twice += isinstance(error, TwiceError)
            self.orphans += isinstance(error, OrphanError)
            self.wrong.append(f"{type(error).__name__}: {error}")

    def hold(self) -> None:
        """Raise AssertionError unless all is right."""
        assert not self.wrong, f"{self}\n" + "\n".join(self.wrong)
