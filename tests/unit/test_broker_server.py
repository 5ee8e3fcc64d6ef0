"""The reference REST API from the inside: proxies, clocks, and requests of any shape."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from daemon.broker.client import ApiClient
from daemon.broker.drops import Drop, Drops
from daemon.broker.guard import Guard, Nonces, UnauthorizedError
from daemon.broker.hawk import Signer
from daemon.broker.overview import page
from daemon.broker.server import MAX_BODY, ReferenceApi, _is_here
from daemon.errors import ApiRefusedError, ConfigError
from daemon.settings import Api, Hooks, Pipeline, Settings, Study, Uploads

STUDY = "11111111-2222-4333-8444-555555555555"
KEY, SECRET = "key", "a secret"
PROXY = "https://api.example.org/v1/"
URL = "http://127.0.0.1/x"


def settings(state: Path, **api: str) -> Settings:
    study = Study(id=STUDY, encrypt="none", recipients=(), destinations=("local",))
    return Settings(
        file=None,
        uploads=Uploads(directory=state, info_directory=state),
        spool=state,
        state=state,
        hooks=Hooks(socket=state),
        api=msgspec.convert({"hawk_key": KEY, "hawk_secret": SECRET} | api, Api),
        pipeline=Pipeline(workers=1),
        destinations={},
        studies={STUDY: study},
    )


@contextlib.asynccontextmanager
async def serving(state: Path, ahead: float = 0.0) -> AsyncIterator[str]:
    """The URL of a server that was told the URL that a proxy gives it."""
    async with Drops(state / "api.sqlite") as drops:
        api = ReferenceApi(settings(state, url=PROXY), drops, clock=lambda: time.time() + ahead)
        async with TestServer(api.application()) as server:
            yield str(server.make_url(api.base))


def reached(url: str, sign_as: str = "") -> Api:
    return Api(url=url, sign_as=sign_as, hawk_key=KEY, hawk_secret=SECRET, timeout=5.0)


async def test_it_takes_what_was_signed_for_its_proxy_and_for_itself(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        for sign_as in ("", PROXY):
            async with ApiClient(reached(url, sign_as), clock=time.time) as client:
                assert await client.study(STUDY)


async def test_it_takes_nothing_signed_for_another_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        elsewhere = reached(url, "https://elsewhere.example.org/v1/")
        async with ApiClient(elsewhere, clock=time.time) as client:
            with pytest.raises(ApiRefusedError, match="authentication failed"):
                await client.study(STUDY)


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_it_proves_its_time_to_a_client_whose_clock_is_wrong(
    tmp_path: Path, ahead: float
) -> None:
    async with (
        serving(tmp_path, ahead) as url,
        ApiClient(reached(url), clock=time.time) as client,
    ):
        assert await client.study(STUDY)
        # Its Date is the machine's: only the proven time can have helped.
        assert client._clock.offset == pytest.approx(ahead, abs=5)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "nothing/", 404), ("DELETE", "uploads/", 405), ("GET", "../uploads/", 404)],
)
async def test_other_requests_get_a_detail_in_json(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with (
        serving(tmp_path) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url + path) as answer,
    ):
        assert answer.status == status
        assert set(await answer.json()) == {"detail"}


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    body = io.BytesIO(b"x" * (MAX_BODY + 1))
    async with (
        serving(tmp_path) as url,
        aiohttp.ClientSession() as session,
        session.post(url + "uploads/", data=body) as answer,
    ):
        assert answer.status == 413


@pytest.mark.parametrize("missing", ["hawk_key", "hawk_secret"])
def test_it_needs_credentials(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match="DROPOFF_API_HAWK"):
        ReferenceApi(
            settings(tmp_path, **{missing: ""}), Drops(tmp_path / "api.sqlite"), clock=time.time
        )


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_the_overview_is_for_this_machine(address: str) -> None:
    assert _is_here(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "", None, "localhost"])
def test_the_overview_is_for_nobody_else(address: str | None) -> None:
    assert not _is_here(address)


def admit(guard: Guard, header: str | None) -> None:
    guard.admit(header, "GET", [URL], b"", "")


def signed(method: str = "GET", body: bytes = b"", kind: str = "", now: float = 0.0) -> str:
    return Signer(KEY, SECRET).sign(method, URL, body, kind, int(now or time.time())).header


@given(st.text() | st.text().map("Hawk ".__add__) | st.text().map(f'Hawk id="{KEY}", '.__add__))
def test_no_header_of_any_other_shape_is_let_in(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        admit(Guard(KEY, SECRET, clock=time.time), header)


def test_a_signature_counts_once() -> None:
    guard, header = Guard(KEY, SECRET, clock=time.time), signed()
    admit(guard, header)
    with pytest.raises(UnauthorizedError):
        admit(guard, header)


def test_a_signature_that_was_refused_is_not_remembered() -> None:
    guard, header = Guard(KEY, SECRET, clock=time.time), signed()
    with pytest.raises(UnauthorizedError):
        guard.admit(header, "POST", [URL], b"", "")
    admit(guard, header)


def test_a_body_without_its_hash_is_not_let_in() -> None:
    header = signed()
    with pytest.raises(UnauthorizedError):
        Guard(KEY, SECRET, clock=time.time).admit(header, "GET", [URL], b"body", "text/plain")


@pytest.mark.parametrize("off", [-3600, -62, 62, 3600])
def test_a_signature_of_another_time_is_told_the_right_one(off: int) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        admit(Guard(KEY, SECRET, clock=time.time), signed(now=time.time() + off))
    stated = Signer(KEY, SECRET).stated_time([refused.value.challenge])
    assert stated == pytest.approx(time.time(), abs=3)


def test_nonces_are_forgotten_once_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    nonces = Nonces(keep=100)
    assert not nonces.seen("k", "n", "1")
    now = 99.0
    assert nonces.seen("k", "n", "1")
    assert not nonces.seen("k", "n", "2")
    now = 101.0
    assert not nonces.seen("k", "other", "1")
    assert len(nonces._seen) == 2


@given(st.text(), st.text(), st.one_of(st.none(), st.integers(min_value=0)))
def test_no_text_breaks_out_of_the_page(filename: str, study: str, size: int | None) -> None:
    said = {"filename": f"<b>{filename}", "study": f'"><i>{study}', "size": size}
    drop = Drop(id="1", announcement=said, announced_at=0.0, state="<u>")
    text = page([drop])
    plain = page([msgspec.structs.replace(drop, announcement={}, state=None)])
    assert text.count("<") == plain.count("<")
