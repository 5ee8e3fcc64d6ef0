"""The broker of rustus' AMQP hooks: looked at, and left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from daemon.checks.findings import Finding, error, ok, warning
from daemon.config_amqp import failed_queue
from daemon.errors import AmqpError
from daemon.intake.amqp_connection import connected, open_channel
from daemon.intake.amqp_topology import Step, exchange_step, failed_step, queue_step, queues
from daemon.settings import Amqp

_CHECK = "amqp"


async def broker(amqp: Amqp) -> Sequence[Finding]:
    """Connect, and see how what is there goes with what the service would declare."""
    try:
        async with connected(amqp) as connection:
            others = [what for what, step in _steps(amqp) if await _is_other(connection, step)]
            aside = await _waiting(connection, failed_queue(amqp))
    except AmqpError as failure:
        return [
            error(
                _CHECK,
                failure.message,
                "see [hooks.amqp] url and DROPOFF_AMQP_PASSWORD, and whether the broker is up; "
                "until it is, uploads are found without these hooks",
            )
        ]
    return [ok(_CHECK, f"broker {amqp.host}:{amqp.port} knows us"), *_warnings(amqp, others, aside)]


def _warnings(amqp: Amqp, others: Sequence[str], aside: int) -> Iterator[Finding]:
    if others:
        yield warning(
            _CHECK,
            f"{', '.join(others)}: there, with other attributes than [hooks.amqp] tells",
            "they are used as they are; but rustus does not start where it declares them and is "
            "told otherwise: tell both the same, or remove them while both are stopped",
        )
    if aside:
        yield warning(
            _CHECK,
            f"{aside} message{'s' if aside > 1 else ''} that nobody understood",
            f"see the queue {failed_queue(amqp)}: each has its reason in a header",
        )


def _steps(amqp: Amqp) -> Iterator[tuple[str, Step]]:
    if amqp.exchange:
        yield f"exchange {amqp.exchange}", exchange_step(amqp)
    for name in queues(amqp):
        yield f"queue {name}", queue_step(amqp, name)
    name = failed_queue(amqp)
    yield f"queue {name}", failed_step(name)


async def _is_other(connection: AbstractConnection, step: Step) -> bool:
    """Whether it is there, and not as it would be declared. A refusal ends the channel."""
    channel = await open_channel(connection)
    try:
        await step(channel, passive=True)
        await step(channel, passive=False)  # it is there, so that changes nothing
    except ChannelPreconditionFailed:
        return True
    except (ChannelNotFoundEntity, ChannelAccessRefused):
        return False
    await channel.close()
    return False


async def _waiting(connection: AbstractConnection, queue: str) -> int:
    channel = await open_channel(connection)
    try:
        found = await channel.queue_declare(queue, passive=True)
    except (ChannelNotFoundEntity, ChannelAccessRefused):
        return 0
    await channel.close()
    return found.message_count or 0
