"""What hooks other than pre-create are for, wherever they come from: a hint, or a farewell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from daemon.intake.events import Event
from daemon.intake.info import Info


class Lookout(Protocol):
    """Who looks after hints. Both raise StateFullError; the effect is committed on return."""

    async def check(self, tus_ids: Iterable[str]) -> None:
        """Look at these uploads now."""

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        """The client took an upload back; ``upload`` is what the server says of it."""


async def follow(lookout: Lookout, events: Sequence[Event]) -> None:
    """Let hints have their effect, which is committed when this returns. Raises StateFullError."""
    gone = {event.upload.tus_id: event.upload for event in events if event.hook == "post-terminate"}
    # What hooks say of partials concerns nobody; neither is pre-create told of here.
    seen = {
        event.upload.tus_id
        for event in events
        if event.hook not in {"pre-create", "pre-terminate", "post-terminate"}
        and not event.upload.is_partial
    }
    await lookout.check(seen - gone.keys())
    for tus_id, upload in gone.items():
        await lookout.terminated(tus_id, upload)
