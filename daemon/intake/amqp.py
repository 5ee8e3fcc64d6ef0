"""rustus' AMQP hooks: hints that a broker keeps until their effect is committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic

from daemon.backoff import Backoff
from daemon.config_amqp import failed_queue
from daemon.errors import AmqpError, SpoolError, StateFullError
from daemon.intake.amqp_connection import connected, open_channel
from daemon.intake.amqp_messages import parse_message
from daemon.intake.amqp_topology import declare, queues
from daemon.intake.events import Event
from daemon.intake.hints import Lookout, follow
from daemon.ports import Metrics
from daemon.settings import Amqp

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between tries to reach the broker."""
STEADY_SECONDS = 30.0
"""A connection that held for so long counts as one: after it the pauses begin anew."""
FULL_SECONDS = 5.0
"""Pause where no space is left for the journal."""
PREFETCH = 32
"""Messages of each queue that the broker hands out before we are done with them."""
PUBLISH_SECONDS = 30.0
REASON = "x-dropoffd-reason"
CODE = "x-dropoffd-code"
_MAX_REASON = 500
_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Read:
    """A message, read."""

    tag: int
    message: DeliveredMessage
    event: Event | SpoolError
    began: float


class AmqpHooks:
    """Takes what rustus told the broker, for as long as :meth:`run` runs.

    A message is acknowledged only once its effect is committed, so that the broker gives it again
    after a crash. One that can't be understood goes to a queue of its own.

    Args:
        amqp: The broker, and what things are called there.
        lookout: Gets the hints.
        metrics: Gets a ``hook`` line for each message.
        backoff: The pauses between tries to reach the broker.
    """

    def __init__(
        self, amqp: Amqp, lookout: Lookout, metrics: Metrics, backoff: Backoff | None = None
    ) -> None:
        self.connected = False
        """Whether hooks are listened to at the moment."""
        self.problem: str | None = None
        """Why the broker can't be listened to, or why hints have to wait."""
        self.failed = 0
        """Messages that could not be understood since the start."""
        self._amqp = amqp
        self._lookout = lookout
        self._metrics = metrics
        self._backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    async def run(self) -> None:
        """Listen until cancelled. Hooks are hints: no trouble with them ends this."""
        tries = 0
        while True:
            began = time.monotonic()
            try:
                async with connected(self._amqp) as connection:
                    await self._listen(connection)
            except AmqpError as error:
                self._trouble(error.message, error.code)
            except Exception as error:
                # The messages stay with the broker, and come again.
                log.exception("AMQP hooks failed")
                self._trouble(f"{type(error).__name__}, which the log tells of", "internal")
            finally:
                self.connected = False
            tries = 1 if time.monotonic() - began > STEADY_SECONDS else tries + 1
            await asyncio.sleep(self._backoff.delay(tries))

    def describe(self) -> dict[str, Any]:
        """How it is, for ``dropoffd status``."""
        return {
            "connected": self.connected,
            "problem": self.problem or "",
            "failed": self.failed,
        }

    def _trouble(self, problem: str, code: str) -> None:
        if self.problem != problem:
            log.warning("no AMQP hooks", code=code, error=problem)
        self.problem = problem

    # Messages -------------------------------------------------------------------------------

    async def _listen(self, connection: AbstractConnection) -> None:
        """Take messages until the connection is lost. Raises AmqpError then."""
        for note in await declare(connection, self._amqp):
            log.warning("AMQP hooks", note=note)
        inbox: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        channel = await open_channel(connection)

        def ended(closing: asyncio.Future[object]) -> None:
            if not closing.cancelled():
                closing.exception()  # looked at, or it would be logged as forgotten
            inbox.put_nowait(None)

        channel.closing.add_done_callback(ended)
        channel.on_consumer_cancel_callbacks.add(lambda _: inbox.put_nowait(None))
        await channel.basic_qos(prefetch_count=PREFETCH)
        for queue in queues(self._amqp):
            await channel.basic_consume(queue, inbox.put)
        self.connected, self.problem = True, None
        log.info("AMQP hooks are listened to", broker=f"{self._amqp.host}:{self._amqp.port}")
        while True:
            await self._take(channel, await _batch(inbox))

    async def _take(self, channel: AbstractChannel, batch: Sequence[DeliveredMessage]) -> None:
        read = [self._read(message) for message in batch]
        understood = [each for each in read if isinstance(each.event, Event)]
        await self._follow([each.event for each in understood if isinstance(each.event, Event)])
        for each in understood:
            await channel.basic_ack(each.tag)
            self._record(each)
        for each in read:
            if isinstance(each.event, SpoolError):
                await self._put_aside(channel, each.message, each.event)
                await channel.basic_ack(each.tag)
                self._record(each)

    def _read(self, message: DeliveredMessage) -> _Read:
        began = time.monotonic()
        headers = message.header.properties.headers
        event: Event | SpoolError
        try:
            event = parse_message(message.body, message.routing_key or "", headers, self._amqp)
        except SpoolError as error:
            event = error
        return _Read(message.delivery_tag or 0, message, event, began)

    async def _follow(self, events: Iterable[Event]) -> None:
        """Let hints have their effect, which is committed when this returns."""
        while True:
            try:
                await follow(self._lookout, list(events))
            except StateFullError as error:
                self._trouble(error.message, error.code)
                await asyncio.sleep(FULL_SECONDS)
            else:
                self.problem = None
                return

    async def _put_aside(
        self, channel: AbstractChannel, message: DeliveredMessage, error: SpoolError
    ) -> None:
        """Hand it to the queue of what nobody understood; the broker has it when this returns."""
        given = message.header.properties
        kept = {
            name: text
            for name, text in (given.headers or {}).items()
            if name in {"id", "task"} and isinstance(text, str)
        }
        properties = Basic.Properties(
            content_type=given.content_type,
            delivery_mode=2,  # it outlives the broker's restart
            headers={
                **kept,
                CODE: error.code,
                REASON: _shown(error.message),
                "x-dropoffd-exchange": message.exchange or "",
                "x-dropoffd-routing-key": message.routing_key or "",
                "x-dropoffd-at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        await channel.basic_publish(
            message.body,
            routing_key=failed_queue(self._amqp),
            properties=properties,
            mandatory=True,
            timeout=PUBLISH_SECONDS,
        )

    def _record(self, read: _Read) -> None:
        fields: dict[str, object] = {
            "by": "amqp",
            "hook_seconds": round(time.monotonic() - read.began, 6),
        }
        if read.message.redelivered:
            fields["redelivered"] = True
        if isinstance(read.event, Event):
            fields |= {"hook": read.event.hook, "tus_id": read.event.upload.tus_id}
            self._metrics.record("hook", "ok", **fields)
            return
        self.failed += 1
        error = read.event
        told = _shown(read.message.routing_key or "")
        log.warning(
            "AMQP hook not understood", routing_key=told, code=error.code, error=error.message
        )
        self._metrics.record("hook", "failed", routing_key=told, error_code=error.code, **fields)


async def _batch(inbox: asyncio.Queue[DeliveredMessage | None]) -> list[DeliveredMessage]:
    """What has come, at least one. Raises AmqpError at the end."""
    batch: list[DeliveredMessage] = []
    first = True
    while first or (not inbox.empty() and len(batch) < _BATCH):
        first = False
        message = await inbox.get()
        if message is None:
            # What came before it can't be acknowledged any more, and comes again.
            raise AmqpError("the broker went away, or took a queue away")
        batch.append(message)
    return batch


def _shown(text: str) -> str:
    clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return clean.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
