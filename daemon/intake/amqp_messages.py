"""Messages of rustus' AMQP hooks, plain ones and Celery's → hints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.errors import InfoError, SpoolError
from daemon.intake.events import Event, parse_event
from daemon.intake.info import MAX_INFO, decode
from daemon.settings import Amqp

UNNAMED = "post-receive"
"""A hook that isn't named is taken as one that only says: look."""
_TASK = "rustus."
"""Before the hook's name in the name of a Celery task."""


class _Task(msgspec.Struct, frozen=True, array_like=True):
    """A call of a Celery task: arguments by place, by name, and what else there is to say."""

    arguments: tuple[msgspec.Raw]
    named: dict[str, msgspec.Raw]
    more: dict[str, msgspec.Raw] | None


_TASK_DECODER = msgspec.json.Decoder(_Task)


def parse_message(
    body: bytes, routing_key: str, headers: Mapping[str, Any] | None, amqp: Amqp
) -> Event:
    """The meaning of a message. Raises SpoolError.

    No format of rustus tells the hook. It is the end of the routing key, and of the Celery task;
    where there is but one routing key for all, and no Celery, it can't be known.
    """
    event = _inner(body, amqp.celery)
    hook = _hook(routing_key, headers or {}, amqp)
    if hook is not None:
        return parse_event(event, hook)
    # Before it is made an upload may have no id yet. What there is to see then is seen anyway.
    found = parse_event(event, "pre-create")
    return parse_event(event, UNNAMED) if found.upload.tus_id else found


def _inner(body: bytes, celery: bool | None) -> bytes:  # noqa: FBT001 - None is a third way
    """The hook's message. Raises SpoolError."""
    if len(body) > MAX_INFO:
        raise SpoolError(f"over {MAX_INFO} bytes")
    is_list = body.lstrip()[:1] == b"["
    if celery is not None and celery != is_list:
        found, expected = ("one", "none") if is_list else ("none", "one")
        raise SpoolError(f"by [hooks.amqp] celery, expected {expected} of Celery's, found {found}")
    if not is_list:
        return body
    try:
        (event,) = decode(body, _TASK_DECODER).arguments
    except InfoError as error:
        raise SpoolError(f"no call of a Celery task as rustus makes it: {error.message}") from None
    return bytes(event)


def _hook(routing_key: str, headers: Mapping[str, Any], amqp: Amqp) -> str | None:
    """The hook's name as it is told; None where it isn't."""
    task = headers.get("task")
    if isinstance(task, str) and task.startswith(_TASK):
        return task.removeprefix(_TASK)
    prefix = f"{amqp.queues_prefix}."
    if not amqp.routing_key and routing_key.startswith(prefix):
        return routing_key.removeprefix(prefix)
    return None
