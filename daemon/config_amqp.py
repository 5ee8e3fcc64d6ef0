"""``[hooks.amqp]``: the broker that rustus tells of its hooks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from daemon.config_checks import host_problem
from daemon.config_file import AmqpTable, Issues, absolute, describe
from daemon.credentials import Credentials, variable
from daemon.settings import Amqp

AMQP_LIBRARY: Final = "aiormq"
AMQP_MISSING: Final = (
    f"AMQP hooks need {AMQP_LIBRARY}, which isn't installed: pip install dropoffd[amqp]"
)
FAILED: Final = "failed"
"""Behind the prefix, the name of the queue of what nobody understood."""
MAX_NAME = 255
"""Bytes of a name that the protocol takes."""

_KEY = ("hooks", "amqp")
_PORTS = {"amqp": 5672, "amqps": 5671}
_EXPECTED = 'expected "amqp://user@host:5672/vhost" or amqps://'
_LONGEST_HOOK = ".post-terminate"


def has_amqp() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec(AMQP_LIBRARY) is not None


def failed_queue(amqp: Amqp) -> str:
    """The name of the queue of what nobody understood."""
    return f"{amqp.queues_prefix}.{FAILED}"


def read_amqp(
    file: Path, issues: Issues, credentials: Credentials | None, table: AmqpTable | None
) -> Amqp | None:
    """The settings of the table, None where there is none. What can't be used is noted.

    Without ``credentials`` the password is not looked for or missed.
    """
    if table is None:
        return None
    if not has_amqp():
        issues.add((*_KEY, "url"), AMQP_MISSING)
    broker = _broker(issues, table.url)
    if credentials is not None:
        broker = msgspec.structs.replace(broker, password=_password(issues, credentials))
    _check_names(issues, table)
    return msgspec.structs.replace(
        broker,
        ca_file=_ca_bundle(file, issues, table, tls=broker.tls),
        exchange=table.exchange,
        exchange_kind=table.exchange_kind,
        routing_key=table.routing_key,
        queues_prefix=table.queues_prefix,
        celery={"true": True, "false": False}.get(table.celery),
        durable_exchange=table.durable_exchange,
        durable_queues=table.durable_queues,
    )


def _broker(issues: Issues, url: str) -> Amqp:
    """Where the broker is. Problems are told without the URL, which may hold a password."""
    nowhere = Amqp(host="", port=0, user="", password="")
    if not url:
        issues.add((*_KEY, "url"), f"missing, {_EXPECTED}")
        return nowhere
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        issues.add((*_KEY, "url"), f"not a URL, {_EXPECTED}")
        return nowhere
    if problem := _problem(parts, url):
        issues.add((*_KEY, "url"), problem)
    return Amqp(
        host=parts.hostname or "",
        port=port or _PORTS.get(parts.scheme, 0),
        user=unquote(parts.username or ""),
        password="",
        virtual_host=unquote(parts.path.removeprefix("/")) or "/",
        tls=parts.scheme == "amqps",
    )


def _problem(parts: SplitResult, url: str) -> str:
    if parts.scheme not in _PORTS:
        return f"not a broker's address, {_EXPECTED}"
    if parts.password is not None:
        return (
            "holds a password; secrets are never in config.toml; "
            f"expected {variable('amqp', 'PASSWORD')} as a credential, "
            "in the environment or in .env"
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return f"has a query or fragment, {_EXPECTED}"
    if not url.isascii() or not url.isprintable() or " " in url:
        return f"holds characters that a URL can't, {_EXPECTED}"
    if not parts.username:
        return f"names no user, {_EXPECTED}"
    return host_problem(parts.hostname or "")


def _password(issues: Issues, credentials: Credentials) -> str:
    name = variable("amqp", "PASSWORD")
    password = credentials.get(name)
    if not password:
        issues.add(
            (*_KEY, "url"),
            f"set, but {name} is missing; expected as a credential, in the environment or in .env",
        )
    return password


def _check_names(issues: Issues, table: AmqpTable) -> None:
    for name, text in (
        ("exchange", table.exchange),
        ("routing_key", table.routing_key),
        ("queues_prefix", table.queues_prefix),
    ):
        if len(f"{text}{_LONGEST_HOOK}".encode()) > MAX_NAME or not text.isprintable():
            issues.add((*_KEY, name), f"found {describe(text)}, expected a shorter name")
    if not table.queues_prefix:
        issues.add((*_KEY, "queues_prefix"), 'empty, expected a name such as "rustus"')
    for name, text in (
        ("queues_prefix", table.queues_prefix),
        ("routing_key", table.routing_key),
    ):
        if text.startswith("amq."):
            issues.add((*_KEY, name), "begins with amq., which the broker keeps to itself")
    if table.routing_key == f"{table.queues_prefix}.{FAILED}":
        issues.add((*_KEY, "routing_key"), "is the queue of what nobody understood, too")


def _ca_bundle(file: Path, issues: Issues, table: AmqpTable, *, tls: bool) -> str:
    if not table.ca_bundle:
        return ""
    key = (*_KEY, "ca_bundle")
    if not tls:
        issues.add(key, "not used by amqp://, expected amqps:// in url")
    path = absolute(file, issues, key, table.ca_bundle)
    if not path.is_file():
        issues.add(key, f"{path}: no such file, expected CA certificates in PEM")
    return str(path)
