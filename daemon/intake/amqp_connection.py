"""A connection to the broker of rustus' AMQP hooks, and what stands in the way of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ConnectionClosed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from daemon.errors import AmqpError
from daemon.settings import Amqp

CONNECT_SECONDS = 15.0
"""Until a broker that says nothing counts as away."""
CLOSE_SECONDS = 2.0
HEARTBEAT = 30
"""Seconds. One that says nothing for about three times as long is gone."""
_MAX_TEXT = 300


@asynccontextmanager
async def connected(amqp: Amqp) -> AsyncIterator[AbstractConnection]:
    """A connection, closed at the end.

    Raises AmqpError where there can't be one, or where the broker ends it, or refuses something,
    while it is used.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await _connect(amqp)
    except TimeoutError:
        raise AmqpError(f"{_place(amqp)}: no answer within {CONNECT_SECONDS:.0f} s") from None
    except _TROUBLE as error:
        raise AmqpError(f"{_place(amqp)}: {_reason(amqp, error)}") from error
    try:
        yield connection
    except _TROUBLE as error:
        raise AmqpError(f"{_place(amqp)}: {_reason(amqp, error)}") from error
    except asyncio.CancelledError:
        # The library also ends what waits for a broker that goes away by cancelling it.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise AmqpError(f"{_place(amqp)}: the connection was lost") from None
    finally:
        with contextlib.suppress(*_TROUBLE, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()


async def open_channel(connection: AbstractConnection) -> AbstractChannel:
    """A channel on which the broker confirms what it is given, or says so where it can't be put."""
    return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def _connect(amqp: Amqp) -> AbstractConnection:
    url = URL.build(
        scheme="amqps" if amqp.tls else "amqp",
        user=amqp.user,
        password=amqp.password,
        host=amqp.host,
        port=amqp.port,
        query={"heartbeat": str(HEARTBEAT), "name": "dropoffd"},
    ).with_path(f"/{quote(amqp.virtual_host, safe='')}", encoded=True, keep_query=True)
    context = await asyncio.to_thread(_context, amqp) if amqp.tls else None
    return await aiormq.connect(url, context=context)


def _context(amqp: Amqp) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=amqp.ca_file or None)


_TROUBLE = (AMQPError, OSError, RuntimeError)
"""What the library raises. The last: a connection that closed meanwhile."""


def _place(amqp: Amqp) -> str:
    return f"broker {amqp.host}:{amqp.port}"


def _reason(amqp: Amqp, error: Exception) -> str:
    """What went wrong, in our words where it can be told. Never with the password."""
    match error:
        case DeliveryError():
            text = "it doesn't take what is to be put aside"
        case AuthenticationError() | ProbableAuthenticationError():
            text = f"it doesn't know {amqp.user!r} by that password"
        case InvalidFrameError():
            # What the library makes of a refusal at the door.
            text = (
                f"{amqp.user!r} may not use the virtual host {amqp.virtual_host!r}, "
                "or it speaks another protocol"
            )
        case ChannelAccessRefused():
            text = f"{amqp.user!r} may not do that there: {_said(amqp, error)}"
        case ChannelClosed() | ConnectionClosed():
            text = f"it said: {_said(amqp, error)}"
        case TimeoutError():
            text = "no answer in time"
        case _:
            text = _system_reason(error) or f"{type(error).__name__} {_said(amqp, error)}".strip()
    return text


def _system_reason(error: Exception) -> str:
    """What the system or TLS says; the library wraps it. Empty where it is neither's."""
    for each in (error.__cause__, error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not to be trusted: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return f"no TLS: {each.reason}"
        if isinstance(each, OSError) and each.errno and each.strerror:
            # asyncio's own words for it name the address again; those of getaddrinfo have no number
            return os.strerror(each.errno) if each.errno > 0 else each.strerror
    return ""


def _said(amqp: Amqp, error: Exception) -> str:
    text = " ".join(str(each) for each in error.args)
    if amqp.password:
        text = text.replace(amqp.password, "…").replace(quote(amqp.password, safe=""), "…")
    return "".join(each if each.isprintable() else " " for each in text)[:_MAX_TEXT]
