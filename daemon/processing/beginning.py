"""How a delivery in parts begins, or finds again which parts an earlier try left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from daemon.journal.model import Delivery
from daemon.processing.context import Context
from daemon.processing.exchange import Exchange
from daemon.scheduling import costs
from pipeline.errors import ForgottenError, VerificationError
from pipeline.messages import (
    Begin,
    Begun,
    PartProved,
    Prove,
    Seal,
    Span,
    StoredPart,
    Target,
)


class Beginning(NamedTuple):
    """Where a try begins."""

    reference: str
    """Of the unfinished object."""
    parts: dict[int, StoredPart]
    """Those that are proved to be there, by number."""
    finished: bool
    """Whether the object is there already, all of it."""


class Beginner:
    """Begins an object at its destination, or goes on with one that was begun."""

    def __init__(
        self,
        context: Context,
        exchange: Exchange,
        delivery: Delivery,
        target: Target,
        seal: Seal,
    ) -> None:
        self._context = context
        self._journal = context.journal
        self._delivery = delivery
        self._target = target
        self._seal = seal
        self._exchange = exchange

    async def begin(self, spans: Sequence[Span], *, fingerprint: bool) -> Beginning:
        """Find out what is there of ``spans``, the object's parts; begin it where nothing is.

        With ``fingerprint``, parts that are sealed again have their BLAKE3 taken. Raises
        VerificationError for an object that is finished, and whose parts aren't known.
        """
        begun = await self._begun(self._delivery.reference)
        if begun.reference != self._delivery.reference:
            return Beginning(begun.reference, {}, finished=False)
        parts = await self._journal.parts(self._delivery.upload, self._delivery.position)
        if begun.finished:
            if len(parts) < len(spans):
                raise VerificationError("the object is there, but not all of its parts are known")
            return Beginning(begun.reference, parts, finished=True)
        by_number = {span.number: span for span in spans}
        proved = await self._proved(begun, parts, by_number, fingerprint=fingerprint)
        return Beginning(begun.reference, proved, finished=False)

    async def _begun(self, reference: str) -> Begun:
        job = Begin(
            destination=self._delivery.destination,
            target=self._target,
            reference=reference,
            traits=self._context.known_of(self._delivery.destination),
        )

        async def keep(begun: Begun) -> None:
            if begun.reference != self._delivery.reference:
                await self._journal.begun(
                    self._delivery.upload, self._delivery.position, begun.reference
                )

        try:
            begun = await self._exchange.ask(job, Begun, keep)
        except ForgottenError:
            if not reference:
                raise
            await self._journal.forget_parts(self._delivery.upload, self._delivery.position, None)
            # A place that has but one name for it gives the same reference again.
            self._delivery = msgspec.structs.replace(self._delivery, reference="")
            return await self._begun("")
        if self._context.stores is not None:
            await self._context.stores.learn(self._delivery.destination, begun.traits)
        return begun

    async def _proved(
        self,
        begun: Begun,
        known: Mapping[int, StoredPart],
        spans: Mapping[int, Span],
        *,
        fingerprint: bool,
    ) -> dict[int, StoredPart]:
        """The parts that needn't be sent again.

        One that the journal and the destination agree on is there. One that only the destination
        shows (its answer was lost), or that it can't show, is sealed again and compared.
        """
        # A store may list a part that was replaced beside the one that replaced it.
        listed = {(part.number, part.size, part.etag) for part in begun.held or ()}
        held = {part.number: part for part in begun.held or ()}
        if begun.held is None:
            doubtful = [spans[number] for number in known]
            proved = {}
        else:
            proved = {
                number: part
                for number, part in known.items()
                if (number, part.size, part.etag) in listed
            }
            doubtful = [
                spans[number] for number in held if number in spans and number not in proved
            ]

        async def prove(span: Span) -> None:
            job = Prove(
                destination=self._delivery.destination,
                target=self._target,
                reference=begun.reference,
                seal=self._seal,
                span=span,
                held=held.get(span.number),
                fingerprint=fingerprint,
            )
            async with self._exchange.reading(memory=costs.of_reading(span.length)):
                part = (await self._exchange.run(job, PartProved)).part
            if part is not None:
                proved[span.number] = part

        await self._exchange.in_lanes(doubtful, prove)
        lost = [number for number in known if number not in proved]
        if lost:
            await self._journal.forget_parts(self._delivery.upload, self._delivery.position, lost)
        for number, part in proved.items():
            if known.get(number) != part:
                await self._journal.part_stored(
                    self._delivery.upload, self._delivery.position, part
                )
        return proved
