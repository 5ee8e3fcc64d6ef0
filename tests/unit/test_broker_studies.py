"""The studies of the config and the REST API as one broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.broker.broker import KEEP_PLAN, StudyBroker
from daemon.errors import ApiRefusedError, ApiUnreachableError, PlanError, StudyRefusedError
from daemon.plan import Announcing, Broker
from daemon.settings import Api, Destination, Hooks, Pipeline, Settings, Study, Uploads
from pipeline.messages import DestinationSpec

LOCAL = "11111111-2222-4333-8444-555555555555"
CLOSED = "22222222-2222-4333-8444-555555555555"
REMOTE = "33333333-2222-4333-8444-555555555555"
SPEC = DestinationSpec(name="store", type="directory", directory="/srv/store")


class FakeApi:
    """A REST API that counts, and fails as told."""

    def __init__(self) -> None:
        self.announced: list[Announcing] = []
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.plan: dict[str, Any] = {"encrypt": "none", "destinations": [{"use": "store"}]}

    async def announce(self, announcing: Announcing) -> str:
        self.announced.append(announcing)
        if self.error:
            raise self.error
        return "api-1"

    async def study(self, study: str) -> bytes:
        self.asked.append(study)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return msgspec.json.encode(self.plan)


class World:
    def __init__(self, api: FakeApi | None) -> None:
        self.now = 1000.0
        study = Study(id=LOCAL, encrypt="none", recipients=(), destinations=("store",), max_size=10)
        path = Path("/nowhere")
        settings = Settings(
            file=None,
            uploads=Uploads(directory=path, info_directory=path),
            spool=path,
            state=path,
            hooks=Hooks(socket=path),
            api=Api(),
            pipeline=Pipeline(workers=1),
            destinations={"store": Destination(spec=SPEC, path="{upload}")},
            studies={
                LOCAL: study,
                CLOSED: msgspec.structs.replace(study, id=CLOSED, open=False),
            },
        )
        self.broker: Broker = StudyBroker(settings, api, clock=lambda: self.now)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def world(api: FakeApi) -> World:
    return World(api)


def announcing(study: str, size: int | None = 10) -> Announcing:
    return Announcing(
        key="k",
        study=study,
        filename="f",
        size=size,
        metadata={},
        client="",
        server="",
        tus_id=None,
    )


async def refusal(broker: Broker, study: str, size: int | None = 10) -> StudyRefusedError:
    with pytest.raises(StudyRefusedError) as refused:
        await broker.announce(announcing(study, size))
    return refused.value


@pytest.mark.parametrize("study", [LOCAL, LOCAL.upper()])
async def test_a_study_of_the_config_is_answered_without_the_api(
    world: World, api: FakeApi, study: str
) -> None:
    assert await world.broker.announce(announcing(study)) is None
    assert await world.broker.announce(announcing(study, None)) is None
    plan = await world.broker.plan(study)
    assert (plan.study, plan.max_size) == (LOCAL, 10)
    assert [(one.spec, one.path) for one in plan.destinations] == [(SPEC, "{upload}")]
    assert not api.announced
    assert not api.asked


async def test_a_study_of_the_config_refuses_as_the_api_would(world: World) -> None:
    assert (await refusal(world.broker, LOCAL, 11)).status == 413
    assert (await refusal(world.broker, CLOSED)).status == 403
    with pytest.raises(StudyRefusedError):
        await world.broker.plan(CLOSED)


async def test_without_an_api_other_studies_are_not_known() -> None:
    broker = World(None).broker
    assert (await refusal(broker, REMOTE)).status == 404
    with pytest.raises(StudyRefusedError) as refused:
        await broker.plan(REMOTE)
    assert refused.value.status == 404


async def test_the_api_is_asked_about_each_upload(world: World, api: FakeApi) -> None:
    for _ in range(2):
        assert await world.broker.announce(announcing(REMOTE)) == "api-1"
    assert len(api.announced) == 2
    assert not api.asked


async def test_the_apis_refusal_keeps_its_status_and_text(world: World, api: FakeApi) -> None:
    api.error = ApiRefusedError("Not on Sundays.", 409)
    refused = await refusal(world.broker, REMOTE)
    assert (refused.status, str(refused)) == (409, "Not on Sundays.")


async def test_a_signature_that_is_not_taken_refuses_no_upload(world: World, api: FakeApi) -> None:
    api.error = ApiRefusedError("Bad mac", 401)
    with pytest.raises(ApiUnreachableError, match="Bad mac"):
        await world.broker.announce(announcing(REMOTE))
    with pytest.raises(ApiUnreachableError, match="Bad mac"):
        await world.broker.plan(REMOTE)


async def test_a_plan_is_asked_for_once_in_a_while(world: World, api: FakeApi) -> None:
    first = await world.broker.plan(REMOTE)
    api.plan["encrypt"] = "age"
    world.now += KEEP_PLAN - 1
    assert await world.broker.plan(REMOTE) == first
    world.now += 1
    assert (await world.broker.plan(REMOTE)).encrypt == "age"
    assert len(api.asked) == 2


async def test_a_clock_set_back_does_not_keep_a_plan(world: World, api: FakeApi) -> None:
    await world.broker.plan(REMOTE)
    world.now -= 86400
    await world.broker.plan(REMOTE)
    assert len(api.asked) == 2


async def test_many_who_want_a_plan_at_once_ask_once(world: World, api: FakeApi) -> None:
    await asyncio.gather(*(world.broker.plan(REMOTE) for _ in range(20)))
    assert len(api.asked) == 1


async def test_errors_are_not_kept(world: World, api: FakeApi) -> None:
    api.error = ApiUnreachableError("away")
    with pytest.raises(ApiUnreachableError):
        await world.broker.plan(REMOTE)
    api.error, api.plan = None, {"encrypt": "none", "destinations": []}
    with pytest.raises(PlanError):
        await world.broker.plan(REMOTE)
    api.plan["destinations"] = [{"use": "store"}]
    assert (await world.broker.plan(REMOTE)).destinations


async def test_kept_plans_are_bounded(world: World, api: FakeApi) -> None:
    for number in range(1100):
        await world.broker.plan(f"study-{number}")
    await world.broker.plan("study-1099")
    assert len(api.asked) == 1100
    await world.broker.plan("study-0")
    assert len(api.asked) == 1101
