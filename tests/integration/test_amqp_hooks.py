"""rustus' AMQP hooks at a real broker: nothing is lost, and garbage is put aside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from daemon.backoff import Backoff
from daemon.checks.amqp import broker as check_broker
from daemon.checks.findings import Status
from daemon.cli.install_amqp import RUSTUS_ENVIRONMENT, environment
from daemon.errors import StateFullError
from daemon.intake.amqp import AmqpHooks
from daemon.intake.amqp_topology import queues
from daemon.intake.info import Info
from daemon.settings import Amqp
from tests.peers.certificates import self_signed
from tests.peers.intake import Recorded, until
from tests.peers.rabbitmq import PASSWORD, USER, RabbitMq, silent_broker
from tests.peers.rustus import Rustus

pytestmark = pytest.mark.peers

KINDS = ["topic", "direct", "fanout", "headers"]


class Lookout:
    """Remembers the hints; stands still, or has no space, where it is told to."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.gone: list[str] = []
        self.full = False
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def check(self, tus_ids: Iterable[str]) -> None:
        self.asked += 1
        if self.full:
            raise StateFullError("no space left")
        await self.open.wait()
        self.checked += tus_ids

    async def terminated(self, tus_id: str, upload: Info | None = None) -> None:
        assert upload is not None
        self.gone.append(tus_id)


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    directory = tmp_path_factory.mktemp("rabbit")
    with RabbitMq(directory, self_signed(directory)) as server:
        yield server


@pytest.fixture
def amqp(rabbit: RabbitMq) -> Amqp:
    """Names that no other test has."""
    name = uuid4().hex[:8]
    return Amqp(
        host="127.0.0.1",
        port=rabbit.port,
        user=USER,
        password=PASSWORD,
        exchange=f"exchange {name}",
        queues_prefix=f"ru.{name}",
    )


@pytest.fixture
def lookout() -> Lookout:
    return Lookout()


@pytest.fixture
def metrics() -> Recorded:
    return Recorded()


@asynccontextmanager
async def listening(
    amqp: Amqp, lookout: Lookout, metrics: Recorded | None = None, *, wait: bool = True
) -> AsyncIterator[AmqpHooks]:
    hooks = AmqpHooks(amqp, lookout, metrics or Recorded(), Backoff(0.05, 0.2))
    task = asyncio.create_task(hooks.run())
    try:
        if wait:
            await until(lambda: hooks.connected, f"hooks are listened to ({hooks.problem})")
        yield hooks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def message(tus_id: str, **fields: object) -> bytes:
    upload = {"id": tus_id, "offset": 1, "length": 1, "path": "/x", "metadata": {}} | fields
    return json.dumps({"upload": upload, "request": {"URI": "/files"}}).encode()


async def publish(
    rabbit: RabbitMq,
    amqp: Amqp,
    body: bytes,
    hook: str = "post-finish",
    headers: dict[str, Any] | None = None,
) -> None:
    """As rustus does it."""
    async with rabbit.channel() as channel:
        await channel.basic_publish(
            body,
            exchange=amqp.exchange,
            routing_key=amqp.routing_key or f"{amqp.queues_prefix}.{hook}",
            properties=Basic.Properties(content_type="application/json", headers=headers),
        )


async def put_aside(rabbit: RabbitMq, amqp: Amqp) -> list[tuple[bytes, dict[str, Any]]]:
    """What nobody understood, taken out of its queue."""
    found = []
    async with rabbit.channel() as channel:
        while (got := await channel.basic_get(f"{amqp.queues_prefix}.failed")).delivery_tag:
            found.append((got.body, dict(got.header.properties.headers or {})))
            await channel.basic_ack(got.delivery_tag)
    return found


async def in_queues(rabbit: RabbitMq, amqp: Amqp) -> int:
    return sum([await rabbit.waiting(name) or 0 for name in queues(amqp)])


async def declare_as_rustus(
    tmp_path: Path, rabbit: RabbitMq, amqp: Amqp, *, durable: bool | None = None
) -> None:
    """Have the real one declare what `dropoffd install` tells it to. Raises where that clashes."""
    (tmp_path / RUSTUS_ENVIRONMENT).write_text(environment(amqp))
    lines = (tmp_path / RUSTUS_ENVIRONMENT).read_text().splitlines()
    told = {"RUSTUS_HOOKS_AMQP_URL": rabbit.full_url}
    for name, _, value in (line.partition("=") for line in lines if not line.startswith("#")):
        if durable is None or "DURABLE" not in name:
            told[name] = value.strip("'")
    with Rustus(tmp_path / "rustus", environment=told):
        pass  # it listens once everything is declared


@pytest.mark.parametrize("kind", KINDS)
async def test_hooks_arrive_by_each_kind_of_exchange(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, metrics: Recorded, kind: str
) -> None:
    amqp = msgspec.structs.replace(amqp, exchange_kind=kind)
    async with listening(amqp, lookout, metrics):
        for hook in ("pre-create", "post-create", "post-receive", "post-finish", "pre-terminate"):
            await publish(rabbit, amqp, message(hook), hook)
        await publish(rabbit, amqp, message("gone"), "post-terminate")
        # Where the kind says so each queue gets each message, and the hints come six times.
        times = 6 if kind in {"fanout", "headers"} else 1
        await until(lambda: len(metrics.of("hook")) == 6 * times, "all are taken")
    assert set(lookout.checked) == {"post-create", "post-receive", "post-finish"}
    assert set(lookout.gone) == {"gone"}
    assert await in_queues(rabbit, amqp) == 0
    assert await put_aside(rabbit, amqp) == []


async def test_without_an_exchange_the_queues_names_do(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    amqp = msgspec.structs.replace(amqp, exchange="")
    async with listening(amqp, lookout):
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.checked == ["a"], "it is taken")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_rustus_can_declare_first_or_later(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, tmp_path: Path, kind: str, *, durable: bool
) -> None:
    first = msgspec.structs.replace(
        amqp, exchange_kind=kind, durable_exchange=durable, durable_queues=durable
    )
    later = msgspec.structs.replace(first, exchange="later", queues_prefix=f"{kind}{durable}")
    await declare_as_rustus(tmp_path, rabbit, first)
    for each in (first, later):
        async with listening(each, lookout):
            if each is later:
                await declare_as_rustus(tmp_path, rabbit, each)
            await publish(rabbit, each, message(each.exchange))
            await until(lambda: len(lookout.checked) > 0, "it is taken")
            assert {found.status for found in await check_broker(each)} == {Status.OK}
        assert set(lookout.checked) == {each.exchange}
        lookout.checked.clear()
    async with rabbit.channel() as channel:
        await channel.exchange_delete("later")


async def test_what_rustus_declared_otherwise_is_used_as_it_is(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, tmp_path: Path
) -> None:
    theirs = msgspec.structs.replace(amqp, exchange_kind="direct")
    await declare_as_rustus(tmp_path, rabbit, theirs, durable=False)
    _, found = await check_broker(amqp)
    assert (found.status, "other attributes" in found.message) == (Status.WARNING, True)
    async with listening(amqp, lookout):
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.checked == ["a"], "it is taken")


GARBAGE = [
    b"",
    b"\xff\x00",
    b"{}",
    b"[]",
    b"[[], {}, {}]",
    b"null",
    b"[" * 100_000,
    b'{"upload": 1}',
    b'{"upload": {"id": "\\ud800", "offset": 1, "length": 1}}',
    message("../../etc/passwd"),
    message("a\0b"),
    b'[[{"upload": 1}], {}, {}]',
    b" " * (1024 * 1024 + 1),
]


@pytest.mark.parametrize("celery", [None, True, False])
async def test_garbage_is_put_aside_with_its_reason_and_the_loop_goes_on(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, metrics: Recorded, *, celery: bool | None
) -> None:
    amqp = msgspec.structs.replace(amqp, celery=celery)
    good = message("good") if not celery else b"[[" + message("good") + b"], {}, {}]"
    async with listening(amqp, lookout, metrics) as hooks:
        for body in GARBAGE:
            await publish(
                rabbit, amqp, body, headers={"id": "1", "odd": bytearray(b"\xff"), "n": [1, {}]}
            )
        await publish(rabbit, amqp, message("unheard"), "post-mortem")
        await publish(rabbit, amqp, good, headers={"task": "rustus.post-mortem"})
        await publish(rabbit, amqp, good)
        await until(lambda: lookout.checked == ["good"], "the good one is taken")
        await until(lambda: hooks.failed == len(GARBAGE) + 1, "all others are put aside")
        assert hooks.connected
    aside = await put_aside(rabbit, amqp)
    # A message for which there is no queue goes nowhere; that is how brokers are.
    assert sorted(body for body, _ in aside) == sorted([*GARBAGE, good])
    for _, headers in aside:
        assert headers["x-dropoffd-code"] == "spool_invalid"
        assert headers["x-dropoffd-reason"]
        assert headers["x-dropoffd-routing-key"] == f"{amqp.queues_prefix}.post-finish"
    assert await in_queues(rabbit, amqp) == 0


async def test_messages_of_one_key_for_all_hooks_are_hints(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, metrics: Recorded
) -> None:
    """Without Celery nothing tells which hook it was, so nothing but a look is taken of them."""
    amqp = msgspec.structs.replace(amqp, routing_key=f"{amqp.queues_prefix}.all")
    async with listening(amqp, lookout, metrics):
        await publish(rabbit, amqp, message("", path=None))
        await publish(rabbit, amqp, message("a"))
        celery = b"[[" + message("b") + b"], {}, {}]"
        await publish(rabbit, amqp, celery, headers={"task": "rustus.post-terminate"})
        await until(lambda: len(metrics.of("hook")) == 3, "all are taken")
    assert (lookout.checked, lookout.gone) == (["a"], ["b"])
    assert await put_aside(rabbit, amqp) == []


async def test_a_message_is_acknowledged_only_after_its_effect(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, metrics: Recorded
) -> None:
    lookout.open.clear()
    async with listening(amqp, lookout, metrics):
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.asked == 1, "it is being looked at")
        assert await in_queues(rabbit, amqp) == 0  # handed out
    assert (await in_queues(rabbit, amqp), lookout.checked) == (1, [])
    lookout.open.set()
    async with listening(amqp, lookout, metrics):
        await until(lambda: lookout.checked == ["a"], "it came again")
        await until(lambda: bool(metrics.of("hook")), "it is recorded")
    assert [line["redelivered"] for line in metrics.of("hook")] == [True]
    assert await in_queues(rabbit, amqp) == 0


async def test_a_full_journal_keeps_messages_waiting(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.intake.amqp.FULL_SECONDS", 0.05)
    lookout.full = True
    async with listening(amqp, lookout) as hooks:
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.asked > 2, "it is tried again and again")
        assert hooks.problem == "no space left"
        lookout.full = False
        await until(lambda: lookout.checked == ["a"], "it is taken")
        await until(lambda: hooks.problem is None, "there is no problem any more")


async def test_so_many_messages_are_handed_out_and_no_more(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    lookout.open.clear()
    async with listening(amqp, lookout):
        async with rabbit.channel() as channel:
            for number in range(200):
                await channel.basic_publish(
                    message(str(number)),
                    exchange=amqp.exchange,
                    routing_key=f"{amqp.queues_prefix}.post-finish",
                )
        await until(lambda: lookout.asked == 1, "it is at work")
        assert await in_queues(rabbit, amqp) == 200 - 32
        lookout.open.set()
        await until(lambda: len(lookout.checked) == 200, "all are taken")
    assert set(lookout.checked) == {str(number) for number in range(200)}


async def test_a_queue_that_was_taken_away_is_made_again(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    async with listening(amqp, lookout) as hooks:
        async with rabbit.channel() as channel:
            await channel.queue_delete(f"{amqp.queues_prefix}.post-finish")
        await until(lambda: not hooks.connected, "it is noticed")
        await until(lambda: hooks.connected, "all is there again")
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.checked == ["a"], "it is taken")


async def test_a_broker_that_says_farewell_and_comes_back_is_listened_to_again(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    async with listening(amqp, lookout) as hooks:
        try:
            await asyncio.to_thread(rabbit.stop)
            await until(lambda: not hooks.connected, "the end is noticed")
            refused = f"broker 127.0.0.1:{rabbit.port}: Connection refused"
            await until(lambda: hooks.problem == refused, "it is away")
        finally:
            rabbit.start()  # in this thread: it ends with the one that started it
        await until(lambda: hooks.connected, "hooks are listened to", 30)
        assert hooks.problem is None
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.checked == ["a"], "it is taken")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"password": "wr0ng-password"}, "doesn't know 'dropoff' by that password"),
        ({"virtual_host": "nowhere"}, "may not use the virtual host 'nowhere'"),
        ({"host": "nowhere.invalid"}, "not known"),
        ({"tls": True}, "TLS"),
    ],
)
async def test_a_broker_that_cannot_be_used_is_told_of_in_words(
    amqp: Amqp, lookout: Lookout, changes: dict[str, Any], expected: str
) -> None:
    amqp = msgspec.structs.replace(amqp, **changes)
    async with listening(amqp, lookout, wait=False) as hooks:
        await until(lambda: hooks.problem is not None, "it is told")
        assert expected in (hooks.problem or "")
    (found,) = await check_broker(amqp)
    assert (found.check, found.status) == ("amqp", Status.ERROR)
    assert expected in found.message
    assert amqp.password not in f"{found}{hooks.problem}"


async def test_a_broker_that_says_nothing_counts_as_away(
    amqp: Amqp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.intake.amqp_connection.CONNECT_SECONDS", 0.3)
    with silent_broker() as port:
        (found,) = await check_broker(msgspec.structs.replace(amqp, port=port))
    assert (found.status, "no answer" in found.message) == (Status.ERROR, True)


async def test_tls_takes_the_brokers_certificate_by_its_file_only(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    amqp = msgspec.structs.replace(amqp, tls=True, port=rabbit.tls_port)
    async with listening(amqp, lookout, wait=False) as hooks:
        await until(lambda: hooks.problem is not None, "it is not trusted")
        assert "certificate is not to be trusted" in (hooks.problem or "")
    amqp = msgspec.structs.replace(amqp, ca_file=str(rabbit.directory / "server.pem"))
    async with listening(amqp, lookout):
        await publish(rabbit, amqp, message("a"))
        await until(lambda: lookout.checked == ["a"], "it is taken")


async def test_check_makes_nothing(rabbit: RabbitMq, amqp: Amqp) -> None:
    (found,) = await check_broker(amqp)
    assert found.status is Status.OK
    async with rabbit.channel() as channel:
        with pytest.raises(ChannelNotFoundEntity):
            await channel.exchange_declare(exchange=amqp.exchange, passive=True)
    assert await rabbit.waiting(f"{amqp.queues_prefix}.failed") is None


async def test_check_tells_of_messages_that_nobody_understood(
    rabbit: RabbitMq, amqp: Amqp, lookout: Lookout
) -> None:
    async with listening(amqp, lookout) as hooks:
        await publish(rabbit, amqp, b"?")
        await until(lambda: hooks.failed == 1, "it is put aside")
    found = await check_broker(amqp)
    assert [each.status for each in found] == [Status.OK, Status.WARNING]
    assert "1 message" in found[1].message
