"""Real rustus that tells of its hooks by a real broker: uploads arrive once, whatever dies."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from daemon.cli.install_amqp import RUSTUS_ENVIRONMENT
from tests.peers.dropoffd import Dropoffd
from tests.peers.nginx import Nginx
from tests.peers.rabbitmq import PASSWORD, RabbitMq
from tests.peers.rustus import Rustus
from tests.peers.stores import UNFINISHED
from tests.peers.tus_client import RefusedError, TusClient

STUDY = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"
CLOSED = "33333333-2222-4333-8444-555555555555"
HOOKS = {"pre-create", "post-create", "post-receive", "post-finish", "post-terminate"}

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class World:
    """The daemon and rustus, which share nothing but a directory and a broker."""

    directory: Path
    rabbit: RabbitMq
    prefix: str
    """Of its queues, which no other test has."""
    daemon: Dropoffd
    server: Rustus

    def queue(self, hook: str) -> str:
        return f"{self.prefix}.{hook}"

    def waiting(self, hook: str) -> int | None:
        """Messages of a queue that are not handed out."""
        return asyncio.run(self.rabbit.waiting(self.queue(hook)))

    def hooks(self, outcome: str = "ok") -> list[dict[str, Any]]:
        """What was taken from the broker, as metrics.jsonl has it."""
        if not (self.daemon.state / "metrics.jsonl").exists():
            return []
        lines = [line for line in self.daemon.metrics if line.get("by") == "amqp"]
        return [line for line in lines if line["outcome"] == outcome]

    def told(self, hook: str, tus_id: str) -> list[dict[str, Any]]:
        return [line for line in self.hooks() if (line["hook"], line["tus_id"]) == (hook, tus_id)]

    def stored(self) -> dict[str, bytes]:
        """What is in the store, by study and file name."""
        root = self.directory / "store"
        there = (path for path in root.rglob("*") if path.is_file())
        files = [path.relative_to(root) for path in there if not path.name.endswith(UNFINISHED)]
        found = {f"{path.parts[0]}/{path.name}": (root / path).read_bytes() for path in files}
        assert len(found) == len(files), f"one of them arrived twice: {files}"
        return found

    def listens(self) -> bool:
        status = self.daemon.status()
        return status is not None and bool(status["intake"]["amqp"]["connected"])

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 40.0) -> None:
        self.daemon.wait_for(condition, timeout, what)


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    with RabbitMq(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


def made(
    directory: Path, rabbit: RabbitMq, table: str = "", options: tuple[str, ...] = ()
) -> World:
    """A world as its operator sets it up: by the config, and by `dropoffd install`."""
    prefix = f"ru{uuid4().hex[:8]}"
    studies = "".join(
        f'[studies."{study}"]\nencrypt = "none"\ndestinations = ["local"]\n'
        f"open = {str(study != CLOSED).lower()}\n"
        for study in (STUDY, OTHER, CLOSED)
    )
    (directory / "store").mkdir()
    daemon = Dropoffd(
        directory / "daemon",
        f'[hooks.amqp]\nurl = "{rabbit.url}"\nexchange = "{prefix}"\nqueues_prefix = "{prefix}"\n'
        + table
        + f'[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
        + studies,
        {"DROPOFF_AMQP_PASSWORD": PASSWORD},
    )
    hooks = directory / "hooks"
    daemon.cli("install", "hooks", "--directory", str(hooks), "--server", "rustus")
    environment = told(hooks / RUSTUS_ENVIRONMENT) | {"RUSTUS_HOOKS_AMQP_URL": rabbit.full_url}
    server = Rustus(daemon.uploads, environment=environment, options=options)
    return World(directory, rabbit, prefix, daemon, server)


def told(file: Path) -> dict[str, str]:
    """The variables of an environment file whose values need no quotes."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture
def world(tmp_path: Path, rabbit: RabbitMq) -> World:
    return made(tmp_path, rabbit)


def metadata(name: str, study: str = STUDY) -> dict[str, str]:
    return {"filename": name, "study": study}


async def send_each_way(url: str, name: str, claimed: str) -> dict[str, bytes]:
    """Whole, in pieces, of parts, of a length told at last, taken back: what is to arrive."""
    async with TusClient(url) as client:
        await client.send(b"whole", metadata(f"{name} whole", claimed))
        upload = await client.create(10, metadata(f"{name} pieces", claimed))
        await client.patch(upload, 0, b"hello")
        await client.patch(upload, 5, b"world")
        deferred = await client.create(None, metadata(f"{name} deferred", claimed))
        await client.patch(deferred, 0, b"12")
        await client.patch(deferred, 2, b"34", length=4)
        parts = []
        for data in (b"one ", b"two"):
            part = await client.create(
                len(data), metadata(f"{name} part", claimed), {"Upload-Concat": "partial"}
            )
            await client.patch(part, 0, data)
            parts.append(part)
        await client.concatenate(parts, metadata(f"{name} of parts", claimed))
        await client.terminate(await client.create(5, metadata(f"{name} taken back", claimed)))
    return {
        f"{name} whole": b"whole",
        f"{name} pieces": b"helloworld",
        f"{name} deferred": b"1234",
        f"{name} of parts": b"one two",
    }


@pytest.mark.parametrize(
    ("table", "form", "rustus_first"),
    [
        ("", "default", False),
        ("celery = true\n", "tusd", True),
        ('routing_key = "KEY"\nexchange_kind = "direct"\n', "v2", False),
    ],
    ids=["plain", "Celery", "one key"],
)
def test_uploads_arrive_once_direct_and_behind_nginx(
    tmp_path: Path, rabbit: RabbitMq, table: str, form: str, *, rustus_first: bool
) -> None:
    table = table.replace("KEY", f"key{uuid4().hex[:8]}")
    world = made(tmp_path, rabbit, table, ("--hooks-format", form))
    told_to_nginx = ["--server", "rustus", "--config", str(world.daemon.config)]
    nginx = Nginx(tmp_path / "nginx", world.server.url, told_to_nginx)
    order: list[Dropoffd | Rustus] = [world.daemon, world.server]
    if rustus_first:
        order.reverse()

    async def send() -> dict[str, bytes]:
        direct = await send_each_way(world.server.url, "direct", STUDY)
        virtual = await send_each_way(nginx.url(OTHER), "virtual", CLOSED)
        return {f"{STUDY}/{name}": data for name, data in direct.items()} | {
            f"{OTHER}/{name}": data for name, data in virtual.items()
        }

    with ExitStack() as stack:
        for each in (*order, nginx):
            stack.enter_context(each)
        world.until(world.listens, "hooks are listened to")
        sent = asyncio.run(send())
        world.until(lambda: world.stored().keys() >= sent.keys(), "all are stored")
        # Of hooks that share a key nothing but Celery's task tells the name.
        expected = {"post-receive"} if "routing_key" in table else HOOKS
        world.until(lambda: {line["hook"] for line in world.hooks()} >= expected, "all hooks came")
        assert world.daemon.stop() == 0
    assert world.stored() == sent
    assert world.hooks("failed") == []
    assert world.waiting("failed") == 0


def test_an_upload_that_never_passed_pre_create_is_checked_at_intake(world: World) -> None:
    async def send() -> str:
        async with TusClient(world.server.url) as client:
            return await client.send(b"no", metadata("closed", CLOSED))

    with world.daemon, world.server:
        tus_id = asyncio.run(send())
        world.daemon.wait_until_over(1, 30)
        shown = world.daemon.show(tus_id)
        world.until(lambda: bool(world.told("pre-create", tus_id)), "pre-create came, in vain")
    assert (shown["state"], shown["error"]["code"]) == ("failed", "study_refused")
    assert (world.daemon.uploads / tus_id).read_bytes() == b"no"


def test_a_daemon_killed_with_messages_in_hand_takes_them_again(world: World) -> None:
    """It has them, and dies before anything is committed: nothing is lost, nothing done twice."""

    async def send() -> list[str]:
        async with TusClient(world.server.url) as client:
            return [await client.send(b"%d" % each, metadata(f"{each}")) for each in range(5)]

    with world.daemon, world.server:
        world.until(world.listens, "hooks are listened to")
        world.daemon.signal(signal.SIGSTOP)
        ids = asyncio.run(send())
        time.sleep(1.5)  # rustus publishes behind its answers, and nothing tells when it has
        deadline = time.monotonic() + 20
        while world.waiting("post-finish") != 0:
            assert time.monotonic() < deadline, "the broker hands them out"
        assert world.stored() == {}
        world.daemon.kill()
        while world.waiting("post-finish") != 5:
            assert time.monotonic() < deadline, "the broker has them again"
        world.daemon.start()
        world.until(
            lambda: all(world.told("post-finish", tus_id) for tus_id in ids), "they are taken"
        )
        world.daemon.wait_until_over(5, 30)
        assert world.daemon.stop() == 0
        counts = [world.waiting(hook) for hook in ("pre-create", "post-create", "post-finish")]
    assert counts == [0, 0, 0]
    assert all(world.told("post-finish", tus_id)[0]["redelivered"] for tus_id in ids)
    assert world.stored() == {f"{STUDY}/{each}": b"%d" % each for each in range(5)}
    done = [line for line in world.daemon.metrics if line["event"] == "upload"]
    assert [line["outcome"] for line in done] == ["ok"] * 5


def test_a_broker_that_restarts_in_the_middle_costs_no_upload(world: World) -> None:
    async def send(name: str) -> str:
        async with TusClient(world.server.url) as client:
            return await client.send(b"data", metadata(name))

    async def over_the_gap() -> None:
        async with TusClient(world.server.url) as client:
            upload = await client.create(4, metadata("gap"))
            await client.patch(upload, 0, b"da")
            await asyncio.to_thread(world.rabbit.kill)
            # Its hook is lost; nothing but the file says that it is there.
            await client.patch(upload, 2, b"ta")
            with pytest.raises(RefusedError):
                await client.create(4, metadata("refused"))

    with world.daemon, world.server:
        world.until(world.listens, "hooks are listened to")
        asyncio.run(send("before"))
        try:
            asyncio.run(over_the_gap())
            world.until(lambda: not world.listens(), "the end is noticed")
            world.until(lambda: len(world.stored()) == 2, "what came is stored all the same")
        finally:
            world.rabbit.start()
        world.until(world.listens, "hooks are listened to again")
        after = asyncio.run(send("after"))
        world.until(lambda: bool(world.told("post-finish", after)), "its hook came")
        world.daemon.wait_until_over(3, 30)
        assert world.daemon.stop() == 0
    assert world.stored() == {f"{STUDY}/{name}": b"data" for name in ("before", "gap", "after")}


def test_with_the_broker_away_from_the_start_the_service_runs_all_the_same(
    tmp_path: Path,
) -> None:
    world = made(tmp_path, RabbitMq(tmp_path / "rabbit"))
    by_file = Rustus(world.daemon.uploads)

    async def send() -> None:
        async with TusClient(by_file.url) as client:
            await client.send(b"data", metadata("a"))

    with world.daemon, by_file:
        asyncio.run(send())
        world.daemon.wait_until_over(1, 30)
        status = world.daemon.status()
        shown = world.daemon.cli("status").stdout
        checked = world.daemon.cli("check", "--json", check=False)
        assert world.daemon.stop() == 0
    assert world.stored() == {f"{STUDY}/a": b"data"}
    assert status is not None
    problem = f"broker 127.0.0.1:{world.rabbit.port}: Connection refused"
    assert status["intake"]["amqp"] == {"connected": False, "problem": problem, "failed": 0}
    assert f"AMQP hooks: {problem}" in shown
    (found,) = [each for each in json.loads(checked.stdout)["findings"] if each["check"] == "amqp"]
    assert problem in found["message"]
    log = world.daemon.log.read_text()
    assert log.count("no AMQP hooks") == 1  # said once, however often it is tried
    assert PASSWORD not in log + checked.stdout + shown


def test_garbage_among_the_hooks_harms_nobody(world: World) -> None:
    async def flood() -> None:
        async with world.rabbit.channel() as channel:
            for number in range(50):
                await channel.basic_publish(
                    b"garbage %d" % number,
                    exchange=world.prefix,
                    routing_key=world.queue("post-finish"),
                )

    async def send(name: str) -> str:
        async with TusClient(world.server.url) as client:
            return await client.send(b"data", metadata(name))

    with world.daemon, world.server:
        world.until(world.listens, "hooks are listened to")
        asyncio.run(flood())
        tus_id = asyncio.run(send("good"))
        world.until(lambda: bool(world.told("post-finish", tus_id)), "its hook came")
        world.daemon.wait_until_over(1, 30)
        world.until(lambda: world.waiting("failed") == 50, "all garbage is put aside")
        checked = json.loads(world.daemon.cli("check", "--json", check=False).stdout)["findings"]
        shown = world.daemon.cli("status").stdout
    assert [each["status"] for each in checked if each["check"] == "amqp"] == ["ok", "warning"]
    assert "50 AMQP messages not understood" in shown
    assert world.stored() == {f"{STUDY}/good": b"data"}


def test_what_real_rustus_made_otherwise_is_used_as_it_is(world: World) -> None:
    """The config says durable, rustus was not told so, and came first."""
    for name in ("EXCHANGE", "QUEUES"):
        del world.server._environment[f"RUSTUS_HOOKS_AMQP_DURABLE_{name}"]

    async def send() -> str:
        async with TusClient(world.server.url) as client:
            return await client.send(b"data", metadata("a"))

    with world.server, world.daemon:
        world.until(world.listens, "hooks are listened to")
        tus_id = asyncio.run(send())
        world.until(lambda: bool(world.told("post-finish", tus_id)), "its hook came")
        assert (
            world.daemon.cli("check", "--json", check=False).stdout.count("other attributes") == 1
        )
    assert "other attributes" in world.daemon.log.read_text()
