"""What destinations were found to do, remembered so that not every worker has to find out.

A file of the state directory. It is a hint and nothing more: lost, it costs a few requests; wrong,
the delivery that notices starts over, and the store is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from daemon.ports import Clock
from pipeline.messages import DestinationSpec, Traits

FILE = "stores.json"
VALID_FOR = 30 * 86400.0
"""Seconds. Stores learn: one that couldn't count may be able to later."""
MOST = 1000
"""Stores; the ones learned last are kept."""


class _Learned(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    traits: Traits
    at: float


_Change = Callable[[dict[str, _Learned]], dict[str, _Learned]]


class StoreMemory:
    """Traits of destinations, by what their configuration says: a changed one is a new one.

    Args:
        state: The state directory.
        clock: For how long ago something was learned.
    """

    def __init__(self, state: Path, clock: Clock) -> None:
        self._path = state / FILE
        self._clock = clock
        self._known: dict[str, _Learned] = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Take over what the file has; one that can't be understood counts as empty."""
        self._known = await asyncio.to_thread(self._loaded)

    def known(self, spec: DestinationSpec) -> Traits | None:
        """What is known of a destination as it is configured now; None where nothing is."""
        found = self._known.get(_fingerprint(spec))
        if found is None or self._clock() - found.at > VALID_FOR:
            return None
        return found.traits

    async def learn(self, spec: DestinationSpec, traits: Traits | None) -> None:
        """Remember what was found out. That nothing changed is not written again."""
        known = self.known(spec)
        if traits is None or traits == known:
            return
        if known is not None and traits.conditional is None:
            # Deliveries don't try that; `dropoffd check` does.
            traits = msgspec.structs.replace(traits, conditional=known.conditional)
            if traits == known:
                return
        learned = _Learned(destination=spec.name, traits=traits, at=self._clock())
        await self._change(lambda found: {**found, _fingerprint(spec): learned})

    async def forget(self, spec: DestinationSpec) -> None:
        """It turned out otherwise."""
        key = _fingerprint(spec)
        if key in self._known:
            await self._change(lambda found: {k: v for k, v in found.items() if k != key})

    async def _change(self, change: _Change) -> None:
        async with self._writing:
            self._known = await asyncio.to_thread(self._changed, change)

    def _changed(self, change: _Change) -> dict[str, _Learned]:
        """Both `run` and `check` write: what the other one found out stays."""
        try:
            with _only_one(self._path.parent):
                found = _newest(change(self._read()))
                _replace(self._path, msgspec.json.format(msgspec.json.encode(found)))
                return found
        except OSError:
            return _newest(change(self._known))  # it is known at least until the next start

    def _loaded(self) -> dict[str, _Learned]:
        with contextlib.suppress(OSError), _only_one(self._path.parent):
            _fresh(self._path).unlink(missing_ok=True)
        return self._read()

    def _read(self) -> dict[str, _Learned]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Learned])
        except (OSError, msgspec.MsgspecError):
            return {}


def _fingerprint(spec: DestinationSpec) -> str:
    """Of everything that may change what a store does, credentials and names of ours aside."""
    fields = (
        *(spec.type, spec.endpoint, spec.bucket, spec.region, spec.addressing),
        *(spec.sse, spec.sse_kms_key, spec.storage_class),
        *(spec.lock_mode, spec.lock_days, spec.legal_hold),
    )
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:32]


def _newest(found: dict[str, _Learned]) -> dict[str, _Learned]:
    return dict(sorted(found.items(), key=lambda item: item[1].at)[-MOST:])


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Nobody else writes here meanwhile, of any process. Blocks; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fresh(path: Path) -> Path:
    """What is written before it takes a file's place.

    One name: what a death leaves behind is removed by the next who starts or writes.
    """
    return path.with_name(f".{path.name}.new")


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one. Raises OSError."""
    fresh = _fresh(path)
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
