"""The exchange and the queues of rustus' AMQP hooks: as rustus declares them, or as they are."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from daemon.config_amqp import failed_queue
from daemon.intake.amqp_connection import open_channel
from daemon.settings import Amqp

HOOKS = (
    "pre-create",
    "post-create",
    "post-receive",
    "pre-terminate",
    "post-terminate",
    "post-finish",
)
"""Those that rustus has, in its order."""


class Step(Protocol):
    """Declares something."""

    def __call__(self, channel: AbstractChannel, *, passive: bool) -> Awaitable[object]:
        """Declare it, or only see that it is there: passively."""


def queues(amqp: Amqp) -> tuple[str, ...]:
    """The names of rustus' queues, which it routes by, too."""
    if amqp.routing_key:
        return (amqp.routing_key,)
    return tuple(f"{amqp.queues_prefix}.{hook}" for hook in HOOKS)


async def declare(connection: AbstractConnection, amqp: Amqp) -> list[str]:
    """See that everything is there, whoever comes first, and tell what is there in another way.

    The attributes are those that rustus gives them by the same settings. What somebody made
    otherwise is used as it is: refusing it would help nobody.
    """
    notes = []
    if amqp.exchange:
        notes += await _have(connection, f"exchange {amqp.exchange}", exchange_step(amqp))
    for name in queues(amqp):
        notes += await _have(connection, f"queue {name}", queue_step(amqp, name))
        if amqp.exchange:
            notes += await _bind(connection, amqp, name)
    name = failed_queue(amqp)
    notes += await _have(connection, f"queue {name}", failed_step(name))
    return notes


def exchange_step(amqp: Amqp) -> Step:
    """What declares the exchange."""

    def step(channel: AbstractChannel, *, passive: bool) -> Awaitable[object]:
        return channel.exchange_declare(
            exchange=amqp.exchange,
            exchange_type=amqp.exchange_kind,
            durable=amqp.durable_exchange,
            passive=passive,
        )

    return step


def queue_step(amqp: Amqp, name: str) -> Step:
    """What declares one of rustus' queues."""

    def step(channel: AbstractChannel, *, passive: bool) -> Awaitable[object]:
        return channel.queue_declare(name, durable=amqp.durable_queues, passive=passive)

    return step


def failed_step(name: str) -> Step:
    """What declares our own queue, which keeps what it has when the broker is started again."""

    def step(channel: AbstractChannel, *, passive: bool) -> Awaitable[object]:
        return channel.queue_declare(name, durable=True, passive=passive)

    return step


async def _have(connection: AbstractConnection, what: str, step: Step) -> list[str]:
    """Declare it; where it is there in another way, or may not be made by us: look whether it is.

    Each has a channel of its own, since a refusal ends the channel.
    """
    channel = await open_channel(connection)
    try:
        await step(channel, passive=False)
    except ChannelPreconditionFailed:
        note = f"{what} is there with other attributes than [hooks.amqp] tells"
    except ChannelAccessRefused:
        note = ""
    else:
        await channel.close()
        return []
    channel = await open_channel(connection)
    await step(channel, passive=True)
    await channel.close()
    return [note] if note else []


async def _bind(connection: AbstractConnection, amqp: Amqp, name: str) -> list[str]:
    channel = await open_channel(connection)
    try:
        await channel.queue_bind(name, exchange=amqp.exchange, routing_key=name)
    except ChannelAccessRefused:
        return [f"queue {name} can't be bound by {amqp.user!r}; expected that it is"]
    await channel.close()
    return []
