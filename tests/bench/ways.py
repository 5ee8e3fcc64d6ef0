"""What every way of bringing files to the S3 server is given, and what it gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.bench.loads import Load, Shape
from tests.bench.measure import Sample


class Bench(NamedTuple):
    """What a way works with."""

    url: str
    load: Load
    recipient: Path
    """A public key of Crypt4GH."""
    directory: Path
    """Of this way alone, on the load's file system."""
    ca: Path | None
    """Whom to trust, where the server speaks HTTPS."""
    at_once: int
    """How many processes a hook would have running: as many as there are cores."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Ours, with the bench's CA for OpenSSL, botocore, requests, httpx and rclone."""
        names = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "RCLONE_CA_CERT")
        trust = dict.fromkeys(names, str(self.ca)) if self.ca else {}
        return {**os.environ, **trust}


class Run(Protocol):
    """Delivers the load under the name given, and tells what it cost."""

    def __call__(self, name: str, *, watched: bool) -> Sample: ...


Start = Callable[[Bench], AbstractContextManager[Run]]
"""Makes ready outside the measured time, and cleans up after all runs.

Raises PeerMissingError where this machine can't have it.
"""


def one_each(shape: Shape) -> int:
    """One object for each file."""
    return shape.count


def none(shape: Shape) -> int:
    """No object at all."""
    del shape
    return 0


class Way(NamedTuple):
    """A way, and what it is called."""

    name: str
    title: str
    start: Start
    sealed: bool = True
    """Whether it encrypts."""
    one_by_one: bool = False
    """Whether it starts a process for each file, so that only some of many are tried."""
    sends: bool = True
    """Whether the server has to have all bytes afterwards."""
    objects: Callable[[Shape], int] = one_each
    """How many objects the server must have afterwards."""
    suits: Callable[[Shape], bool] = lambda _: True
