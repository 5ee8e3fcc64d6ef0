"""Deliveries to a configured destination, as uploads get there; nothing of them stays."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec

from daemon.bench.figures import REPETITIONS, Figure, Sample
from daemon.bench.usage import moment
from daemon.settings import Destination, Pipeline
from daemon.tasks import run_all
from daemon.workers import WorkerPool
from pipeline.destinations import limits_of
from pipeline.destinations.probe import probe
from pipeline.destinations.removing import remove
from pipeline.envelope import by_format
from pipeline.envelope.keys import crypt4gh_generate
from pipeline.errors import DestinationError, DropoffError
from pipeline.messages import (
    Begin,
    Begun,
    Digest,
    Digested,
    Finish,
    Part,
    PartStored,
    Seal,
    Span,
    StoredPart,
    Target,
    Whole,
)
from pipeline.parts import plan_parts, spans

PREFIX: Final = ".dropoffd-bench-"
_REMOVE_WITHIN: Final = 60.0
"""Seconds for removing what was delivered, which goes on when all else was cancelled."""


class Deliveries:
    """Delivers one file again and again, through running workers."""

    def __init__(self, pool: WorkerPool, pipeline: Pipeline, source: int, size: int) -> None:
        """``source`` is a descriptor of a file of ``size`` bytes."""
        self._pool = pool
        self._pipeline = pipeline
        self._source = source
        self._size = size
        self._layout = by_format("crypt4gh")

    async def measure(self, name: str, destination: Destination) -> Figure:
        """A figure in any case: what the destination refuses is told in it."""
        figure = Figure(name="destination", subject=name, title=f"the way to destination {name}")
        try:
            left_out = await self._tried(destination)
            if left_out:
                error = f"not tried, what is delivered could not be removed: {left_out}"
                return msgspec.structs.replace(figure, error=error)
            samples = tuple([await self._once(destination) for _ in range(REPETITIONS)])
        except DropoffError as error:
            return msgspec.structs.replace(figure, error=f"{error.code}: {error.message}")
        figure = msgspec.structs.replace(figure, samples=samples)
        note = f"sealed, digested, verified; processors {figure.busy:.0%} busy"
        return msgspec.structs.replace(figure, note=note)

    async def _tried(self, destination: Destination) -> str:
        """Why objects could not be removed again; empty where they can."""
        found = await probe(destination.spec, secrets.token_hex(8), _fixed_part(destination))
        return "; ".join(found)

    async def _once(self, destination: Destination) -> Sample:
        mark = secrets.token_hex(8)
        prefix = _fixed_part(destination) if destination.spec.type == "s3" else ""
        made = self._layout.make([crypt4gh_generate().public])
        seal = Seal(format="crypt4gh", key=made.key, header=made.header, size=self._size)
        target = Target(
            upload=mark,
            name=f"{prefix}{PREFIX}{mark}{self._layout.suffix}",
            size=self._layout.sealed_size(len(made.header), self._size),
        )
        try:
            before = moment(self._pool.pids)
            await self._deliver(destination, target, seal)
            after = moment(self._pool.pids)
        finally:
            await _removed(destination, target)
        return Sample(
            self._size,
            after.seconds - before.seconds,
            after.own - before.own,
            after.busy_since(before),
        )

    async def _deliver(self, destination: Destination, target: Target, seal: Seal) -> None:
        """As the daemon does: parts beside each other, the digest beside them, verified."""
        spec, digest = destination.spec, self._pipeline.digest
        part_size = plan_parts(self._size, self._pipeline.part_size, limits_of(spec))
        if not part_size:
            await self._pool.run(
                Whole(destination=spec, target=target, seal=seal, digest=digest), self._source
            )
            return
        begun = await self._pool.run(Begin(destination=spec, target=target))
        assert isinstance(begun, Begun)  # noqa: S101  # the answer to Begin
        reference = begun.reference
        parts: dict[int, StoredPart] = {}
        waiting = iter(spans(self._size, part_size))

        async def send(span: Span) -> None:
            job = Part(destination=spec, target=target, reference=reference, seal=seal, span=span)
            sent = await self._pool.run(job, self._source)
            assert isinstance(sent, PartStored)  # noqa: S101  # the answer to Part
            parts[span.number] = sent.part

        async def lane() -> None:
            for span in waiting:
                await send(span)

        counted = ""

        async def count() -> None:
            nonlocal counted
            result = await self._pool.run(Digest(digest=digest, size=self._size), self._source)
            assert isinstance(result, Digested)  # noqa: S101  # the answer to Digest
            counted = f"{digest}:{result.digest}"

        await run_all(count(), *(lane() for _ in range(self._pool.slots)))
        await self._pool.run(
            Finish(
                destination=spec,
                target=target,
                reference=reference,
                parts=tuple(parts[number] for number in sorted(parts)),
                seal=seal,
                digest=counted,
            )
        )


async def _removed(destination: Destination, target: Target) -> None:
    """Remove what was delivered. Raises DestinationError that names what is left."""
    try:
        async with asyncio.timeout(_REMOVE_WITHIN):
            await remove(destination.spec, target)
    except (DestinationError, TimeoutError) as error:
        reason = error.message if isinstance(error, DestinationError) else "no answer in time"
        raise DestinationError(f"{target.name} may have to be removed: {reason}") from error


def _fixed_part(destination: Destination) -> str:
    """The directories that every object's name begins with; credentials may end there."""
    fixed = destination.path.partition("{")[0]
    return fixed[: fixed.rfind("/") + 1]
