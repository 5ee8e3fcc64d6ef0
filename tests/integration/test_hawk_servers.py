"""The client against three REST APIs as real processes: npm's hawk, Django's hawkrest, our own."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from daemon.broker.client import ApiClient
from daemon.broker.hawk import Signer
from daemon.errors import ApiRefusedError, ApiUnreachableError
from daemon.plan import Announcing
from daemon.settings import Api
from tests.peers.hawk import HawkServer
from tests.peers.hawkrest_server import HawkrestServer
from tests.peers.reference_api import ReferenceServer, study_table

OPEN = "11111111-2222-4333-8444-555555555555"
CLOSED = "22222222-2222-4333-8444-555555555555"
UNKNOWN = "33333333-2222-4333-8444-555555555555"
PLAN: dict[str, Any] = {
    "open": True,
    "max_size": 1_000_000,
    "encrypt": "none",
    "recipients": [],
    "destinations": [{"use": "local"}],
}
PLANS = {OPEN: PLAN, CLOSED: PLAN | {"open": False}}
STUDIES = study_table(OPEN, 'max_size = "1000000B"') + study_table(CLOSED, "open = false")

pytestmark = [pytest.mark.peers]


@pytest.fixture(scope="module")
def hawk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HawkServer]:
    with HawkServer(tmp_path_factory.mktemp("hawk"), PLANS) as server:
        yield server


@pytest.fixture(scope="module")
def hawkrest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HawkrestServer]:
    with HawkrestServer(tmp_path_factory.mktemp("hawkrest"), PLANS) as server:
        yield server


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceServer]:
    with ReferenceServer(tmp_path_factory.mktemp("reference"), STUDIES) as server:
        yield server


@pytest.fixture(params=["hawk", "hawkrest", "reference"])
def api(request: pytest.FixtureRequest) -> Api:
    found: Api = request.getfixturevalue(request.param).api
    return found


@contextlib.asynccontextmanager
async def client(settings: Api, ahead: float = 0.0) -> AsyncIterator[ApiClient]:
    """A client whose own clock is so many seconds ahead."""
    async with ApiClient(settings, clock=lambda: time.time() + ahead) as asked:
        yield asked


def announcing(study: str = OPEN, size: int | None = 3) -> Announcing:
    return Announcing(
        key=str(uuid.uuid4()),
        study=study,
        filename='Größe "1".bam',
        size=size,
        metadata={"filename": "Größe", "study": study},
        client="192.0.2.1",
        server="tusd",
        tus_id=None,
    )


def report(sequence: int = 1, **more: object) -> dict[str, Any]:
    return {"report": str(uuid.uuid4()), "sequence": sequence, "state": "received", **more}


async def test_an_announcement_gives_an_id_and_its_repeat_the_same(api: Api) -> None:
    upload = announcing()
    async with client(api) as asked:
        given = await asked.announce(upload)
        assert given
        assert await asked.announce(upload) == given
        assert await asked.announce(announcing()) != given


async def test_a_plan_comes_as_the_api_states_it(api: Api) -> None:
    async with client(api) as asked:
        plan = msgspec.json.decode(await asked.study(OPEN))
    assert plan["study"] == OPEN
    assert plan["destinations"] == [{"use": "local"}]


async def test_a_report_is_taken_and_so_is_its_repeat(api: Api) -> None:
    body = report(filename="größe", error=None)
    async with client(api) as asked:
        given = await asked.announce(announcing())
        await asked.report(given, body)
        await asked.report(given, body)


@pytest.mark.parametrize(
    ("study", "status", "said"), [(UNKNOWN, 404, UNKNOWN), (CLOSED, 403, "closed")]
)
async def test_a_refused_study_comes_with_status_and_text(
    api: Api, study: str, status: int, said: str
) -> None:
    async with client(api) as asked:
        with pytest.raises(ApiRefusedError, match=said) as announced:
            await asked.announce(announcing(study))
        with pytest.raises(ApiRefusedError, match=said) as planned:
            await asked.study(study)
    assert announced.value.status == planned.value.status == status


async def test_an_upload_over_the_limit_is_refused_with_the_apis_words(api: Api) -> None:
    async with client(api) as asked:
        with pytest.raises(ApiRefusedError, match=r"may have 1000000 bytes|Too large for us"):
            await asked.announce(announcing(size=1_000_001))
        assert await asked.announce(announcing(size=None))


async def test_a_wrong_secret_is_refused_and_the_hint_names_what_was_signed(api: Api) -> None:
    wrong = msgspec.structs.replace(api, hawk_secret="another one")
    async with client(wrong) as asked:
        with pytest.raises(ApiRefusedError) as refused:
            await asked.study(OPEN)
    assert refused.value.status == 401
    port = api.url.split(":")[2].split("/")[0]
    assert f"127.0.0.1:{port}/" in str(refused.value)
    assert f"studies/{OPEN}/" in str(refused.value)
    assert "another one" not in str(refused.value)


async def test_a_body_altered_on_its_way_is_refused(api: Api) -> None:
    signed, sent = b'{"study":"a"}', b'{"study":"b"}'
    url, kind = api.url + "uploads/", "application/json"
    signer = Signer(api.hawk_key, api.hawk_secret)
    signature = signer.sign("POST", url, signed, kind, int(time.time()))
    headers = {"Authorization": signature.header, "Content-Type": kind}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=sent, headers=headers) as answer,
    ):
        assert answer.status == 401


async def test_a_request_heard_by_others_can_not_be_sent_again(api: Api) -> None:
    url = f"{api.url}studies/{OPEN}/"
    signer = Signer(api.hawk_key, api.hawk_secret)
    signature = signer.sign("GET", url, b"", "", int(time.time()))
    statuses = []
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url, headers={"Authorization": signature.header}) as answer:
                statuses.append(answer.status)
    assert statuses == [200, 401]


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_a_clock_an_hour_off_is_allowed_for(api: Api, ahead: float) -> None:
    async with client(api, ahead) as asked:
        given = await asked.announce(announcing())
        await asked.report(given, report())
        assert asked.skew == pytest.approx(-ahead, abs=5)


async def test_the_system_clock_put_right_is_noticed(api: Api) -> None:
    ahead = 3600.0
    async with ApiClient(api, clock=lambda: time.time() + ahead) as asked:
        await asked.study(OPEN)
        ahead = 0.0
        await asked.study(OPEN)


async def test_a_proven_time_is_believed_however_far_it_is(hawk: HawkServer) -> None:
    async with client(hawk.api, 400 * 86400.0) as asked:
        await asked.study(OPEN)


async def test_an_unproven_time_is_believed_for_a_day_at_most(hawkrest: HawkrestServer) -> None:
    async with client(hawkrest.api, 2 * 86400.0) as asked:
        with pytest.raises(ApiRefusedError, match="system clock"):
            await asked.study(OPEN)


async def test_a_server_of_another_time_is_followed_by_its_date(tmp_path: Path) -> None:
    with HawkrestServer(tmp_path, PLANS, clock_offset=-3000.0) as server:
        async with client(server.api) as asked:
            await asked.study(OPEN)
            assert asked.skew == pytest.approx(-3000, abs=5)


async def test_an_unsigned_answer_is_not_believed_unless_configured(hawk: HawkServer) -> None:
    hawk.control(unsigned=True)
    try:
        async with client(hawk.api) as asked:
            with pytest.raises(ApiUnreachableError, match="Server-Authorization"):
                await asked.study(OPEN)
        async with client(msgspec.structs.replace(hawk.api, unsigned_answers=True)) as asked:
            assert await asked.study(OPEN)
    finally:
        hawk.control(unsigned=False)


async def test_the_same_report_with_another_body_is_refused_with_409(hawk: HawkServer) -> None:
    body = report()
    async with client(hawk.api) as asked:
        given = await asked.announce(announcing())
        await asked.report(given, body)
        with pytest.raises(ApiRefusedError) as refused:
            await asked.report(given, body | {"state": "stored"})
    assert refused.value.status == 409


async def test_a_lost_answer_is_asked_for_again_without_a_second_drop(hawk: HawkServer) -> None:
    upload = announcing()
    hawk.control(lose=1)
    async with client(hawk.api) as asked:
        given = await asked.announce(upload)
    assert [drop["id"] for drop in hawk.drops() if drop["key"] == upload.key] == [given]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
async def test_not_now_is_no_refusal_and_tells_how_long(hawk: HawkServer, status: int) -> None:
    hawk.control(fail={"status": status, "count": 1, "headers": {"Retry-After": "7"}})
    async with client(hawk.api) as asked:
        with pytest.raises(ApiUnreachableError) as failure:
            await asked.study(OPEN)
        assert failure.value.retry_after == 7.0
        assert await asked.study(OPEN)


async def test_django_that_fails_after_taking_a_report_takes_its_repeat(tmp_path: Path) -> None:
    body = report()
    with HawkrestServer(tmp_path, PLANS, report_status=204) as server:
        async with client(server.api) as asked:
            given = await asked.announce(announcing())
            with pytest.raises(ApiUnreachableError, match="500"):
                await asked.report(given, body)
            await asked.report(given, body)
        assert server.drops()[0]["reports"] == [body]


async def test_a_hint_names_the_place_that_was_signed_where_it_is_configured(
    hawk: HawkServer,
) -> None:
    other = msgspec.structs.replace(hawk.api, sign_as="https://api.example.org/base/")
    async with client(other) as asked:
        with pytest.raises(ApiRefusedError, match=r"api\.example\.org:443/base/studies/"):
            await asked.study(OPEN)


@pytest.mark.parametrize("study", ["a b", "a;v=1", "ä/ö", "a?b=c&d", "a%2Fb", "~x", "a+b", "a#b"])
async def test_whatever_stands_in_the_path_is_signed_as_it_is_sent(
    hawk: HawkServer, study: str
) -> None:
    hawk.control(plans=PLANS | {study: PLAN})
    async with client(hawk.api) as asked:
        assert msgspec.json.decode(await asked.study(study))["study"] == study


async def test_an_api_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    with HawkServer(tmp_path, PLANS) as server:
        settings = server.api
    async with client(settings) as asked:
        with pytest.raises(ApiUnreachableError, match="can't be reached"):
            await asked.study(OPEN)
