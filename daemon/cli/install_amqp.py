"""What rustus has to be told to bring its hooks to the broker of ``[hooks.amqp]``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from urllib.parse import quote

from daemon.cli.install_files import MARK
from daemon.settings import Amqp

RUSTUS_ENVIRONMENT = "rustus-amqp.env"
_VARIABLE = "RUSTUS_HOOKS_AMQP_"
_HEAD = """\
# {mark} hooks`, which also replaces it.
# AMQP hooks of rustus, as [hooks.amqp] of config.toml has them: for systemd's
# EnvironmentFile=, docker's --env-file, or a shell. One variable holds a password and
# is not here; set it where only rustus can read it:
#   {variable}URL={url}
# While the broker is away rustus doesn't start, and refuses new uploads. pre-create can't
# refuse one by AMQP: for that, rustus also needs --hooks-file, --hooks-dir or
# --hooks-http-urls.
"""


def environment(amqp: Amqp) -> str:
    """The arguments of rustus as environment variables, but for the password."""
    head = _HEAD.format(mark=MARK, variable=_VARIABLE, url=_url(amqp))
    values = (f"{_VARIABLE}{name}={shlex.quote(value)}\n" for name, value in _values(amqp))
    return head + "".join(values)


def _values(amqp: Amqp) -> Iterator[tuple[str, str]]:
    """Switches are on with any value at all, so those that are to be off are not told of."""
    yield "EXCHANGE", amqp.exchange
    yield "EXCHANGE_KIND", amqp.exchange_kind
    yield "QUEUES_PREFIX", amqp.queues_prefix
    if amqp.routing_key:
        yield "ROUTING_KEY", amqp.routing_key
    if amqp.exchange:
        # The broker's own exchange can't be declared; dropoffd declares the queues there.
        yield "DECLARE_EXCHANGE", "yes"
        yield "DECLARE_QUEUES", "yes"
    if amqp.durable_exchange:
        yield "DURABLE_EXCHANGE", "yes"
    if amqp.durable_queues:
        yield "DURABLE_QUEUES", "yes"
    if amqp.celery:
        yield "CELERY", "yes"


def _url(amqp: Amqp) -> str:
    scheme = "amqps" if amqp.tls else "amqp"
    host = f"[{amqp.host}]" if ":" in amqp.host else amqp.host
    user, virtual_host = quote(amqp.user, safe=""), quote(amqp.virtual_host, safe="")
    return f"{scheme}://{user}:PASSWORD@{host}:{amqp.port}/{virtual_host}"
