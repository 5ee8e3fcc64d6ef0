"""The client against answers that no well-made API gives."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from urllib.parse import unquote

import msgspec
import pytest
from aiohttp import web
from mohawk.util import calculate_ts_mac

from daemon.broker.client import MAX_ANSWER, ApiClient
from daemon.broker.places import Places
from daemon.errors import ApiRefusedError, ApiUnreachableError, ConfigError
from daemon.plan import Announcing
from daemon.settings import Api, ApiPaths
from tests.peers.strange_api import KEY, SECRET, Handler, signed, strange_api

UPLOAD = Announcing(
    key="k", study="s", filename="f", size=1, metadata={}, client="", server="tusd", tus_id=None
)
HOUR = 3600


def always(answer: web.Response) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    return handler


def says(body: object) -> Handler:
    """A signed answer of 200."""

    async def handler(request: web.Request) -> web.Response:
        return await signed(request, msgspec.json.encode(body))

    return handler


async def failure(handler: Handler, **changes: object) -> ApiUnreachableError | ApiRefusedError:
    """What announcing to that server comes to."""
    async with strange_api(handler) as api:
        settings = msgspec.structs.replace(api, **changes)
        async with ApiClient(settings, clock=time.time) as client:
            try:
                given = await client.announce(UPLOAD)
            except (ApiUnreachableError, ApiRefusedError) as error:
                return error
    pytest.fail(f"was announced as {given}")


async def test_an_integer_is_an_id() -> None:
    async with strange_api(says({"id": 17})) as api, ApiClient(api, clock=time.time) as client:
        assert await client.announce(UPLOAD) == "17"


@pytest.mark.parametrize(
    "given", ["", ".", "..", "x" * 201, "a\nb", "a\x00", "\u202e", True, None, 1.5, [], {}]
)
async def test_what_is_no_id_is_not_taken(given: object) -> None:
    assert isinstance(await failure(says({"id": given})), ApiUnreachableError)


@pytest.mark.parametrize("body", [[], None, "x", {}, {"ID": "x"}])
async def test_an_answer_of_another_shape_is_not_understood(body: object) -> None:
    error = await failure(says(body))
    assert isinstance(error, ApiUnreachableError)
    assert "not understood" in str(error)


@pytest.mark.parametrize("given", ["a/b", "a?b#c", "ä;x", "a b%2F", "…", "../x", "a;", "~'\""])
async def test_an_odd_id_is_one_part_of_the_reports_path(given: str) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return await signed(request, msgspec.json.encode({"id": given}))

    async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
        await client.report(await client.announce(UPLOAD), {"report": "r"})
    start, upload, end = paths[1].split("/")[1:-1]
    assert (start, unquote(upload), end) == ("uploads", given, "reports")


async def test_an_answer_changed_on_its_way_is_not_believed() -> None:
    async def handler(request: web.Request) -> web.Response:
        answer = await signed(request, b'{"id": "mine"}')
        answer.body = b'{"id": "evil"}'
        return answer

    assert "is wrong" in str(await failure(handler))


@pytest.mark.parametrize(
    "header",
    ["", "Hawk", "Hawk ", "Basic x", 'Hawk mac="x"', 'Hawk mac="x", mac="x"', "Hawk " + "x" * 5000,
     'Hawk mac="\\"', 'Hawk hash="x"', 'Hawk id="1", ts="x", nonce="y", mac="z"', "\udcff"],
)  # fmt: skip
async def test_a_signature_of_any_other_shape_is_not_believed(header: str) -> None:
    answer = web.json_response({"id": "x"}, headers={"Server-Authorization": header})
    assert "not believed" in str(await failure(always(answer)))


async def test_an_endless_answer_is_cut_off() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1000):
            await answer.write(b"x" * 65536)
        return answer

    assert str(MAX_ANSWER) in str(await failure(handler))


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response()

    assert "within 0.3 s" in str(await failure(handler, timeout=0.3))


async def test_a_packed_answer_is_not_unpacked() -> None:
    answer = web.Response(body=b"x", headers={"Content-Encoding": "gzip"})
    assert isinstance(await failure(always(answer)), ApiUnreachableError)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    error = await failure(handler)
    assert isinstance(error, ApiUnreachableError)
    assert "[api] url" in str(error)
    assert seen == ["/uploads/"]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"detail": "No.\\nReally \\u001b[31mno."}', "application/json", "No. Really [31mno."),
        (b'{"size": ["Too large."]}', "application/problem+json", '{"size":["Too large."]}'),
        (b'"plain"', "application/json", "plain"),
        (b"Go \xff away", "text/plain; charset=utf-8", "Go \ufffd away"),
        (b"<h1>Not found</h1>", "text/html", "HTTP status 404"),
        (b'{"detail": 5', "application/json", "HTTP status 404"),
        (b"[" * 100_000, "application/json", "HTTP status 404"),
        (b"", "", "HTTP status 404"),
    ],
)
async def test_a_refusals_text_is_one_printable_line(body: bytes, kind: str, said: str) -> None:
    error = await failure(
        always(web.Response(body=body, status=404, headers={"Content-Type": kind}))
    )
    assert isinstance(error, ApiRefusedError)
    assert error.status == 404
    assert str(error) == said


async def test_a_long_text_is_cut() -> None:
    answer = web.json_response({"detail": "long " * 10_000}, status=403)
    assert len(str(await failure(always(answer)))) == 500


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("999999999999", 3600.0), ("soon", None), ("-1", None), ("", None)],
)
async def test_retry_after_is_bounded(header: str, seconds: float | None) -> None:
    answer = web.Response(status=503, headers={"Retry-After": header})
    error = await failure(always(answer))
    assert isinstance(error, ApiUnreachableError)
    assert error.retry_after == seconds


async def test_retry_after_may_be_a_date() -> None:
    when = formatdate(time.time() + 100, usegmt=True)
    error = await failure(always(web.Response(status=503, headers={"Retry-After": when})))
    assert isinstance(error, ApiUnreachableError)
    assert error.retry_after == pytest.approx(100, abs=3)


def challenge(stated: str, secret: str = SECRET) -> str:
    proof = calculate_ts_mac(stated, {"id": KEY, "key": secret, "algorithm": "sha256"}).decode()
    return f'Hawk ts="{stated}", tsm="{proof}", error="Stale timestamp"'


async def tries(challenges: Iterable[str], date: float) -> list[int]:
    """The times that a client signs for a server that answers 401 whatever it gets."""
    stated: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        stamp = re.search(r'\bts="(\d+)"', request.headers["Authorization"])
        assert stamp is not None
        stated.append(int(stamp[1]))
        answer = web.Response(status=401, headers={"Date": formatdate(date, usegmt=True)})
        for one in challenges:
            answer.headers.add("WWW-Authenticate", one)
        return answer

    error = await failure(handler)
    assert isinstance(error, ApiRefusedError)
    return stated


async def test_a_correction_is_tried_once_and_no_more() -> None:
    now = time.time()
    first, second = await tries([challenge(str(int(now) + HOUR))], now)
    assert second - first == pytest.approx(HOUR, abs=3)


async def test_the_date_is_tried_once_where_the_server_gives_no_reason() -> None:
    now = time.time()
    first, second = await tries(["Basic realm=x", "Hawk"], now - HOUR)
    assert second - first == pytest.approx(-HOUR, abs=3)


@pytest.mark.parametrize(
    "said",
    [
        challenge(str(int(time.time()) + HOUR), secret="another"),
        f'Hawk ts="{int(time.time()) + HOUR}", error="Stale timestamp"',
        'Hawk error="Bad mac"',
        challenge("9" * 13),
        challenge("-5"),
        challenge("1e9"),
        'Hawk ts="', "Hawk x", "Basic realm=x", "Hawk " + "x" * 5000,
    ],
)  # fmt: skip
async def test_a_time_that_nobody_proves_changes_nothing(said: str) -> None:
    assert len(await tries([said], time.time() + HOUR)) == 1


async def test_a_date_near_ours_is_not_the_reason() -> None:
    assert len(await tries(["Hawk"], time.time() + 20)) == 1


async def test_a_correction_by_date_that_does_not_help_is_forgotten() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return await signed(request, b"{}")
        date = formatdate(time.time() + HOUR, usegmt=True)
        return web.Response(status=401, headers={"Date": date, "WWW-Authenticate": "Hawk"})

    async with strange_api(handler) as api, ApiClient(api, clock=time.time) as client:
        with pytest.raises(ApiRefusedError):
            await client.announce(UPLOAD)
        assert client._clock.offset == 0.0


async def test_nothing_is_logged_with_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with strange_api(says({"id": "x"})) as api, ApiClient(api, clock=time.time) as client:
        await client.announce(UPLOAD)
    assert SECRET not in caplog.text
    assert "mohawk" not in {record.name.partition(".")[0] for record in caplog.records}


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "api.example.org"}, {"url": "ftp://api.example.org/"}, {"url": "http://"},
        {"url": "https://me:hush@api.example.org/"}, {"url": "https://api.example.org/?hush=1"},
        {"url": "http://[::1/"}, {"sign_as": "hush"}, {"hawk_key": ""}, {"hawk_secret": ""},
        {"hawk_key": 'a"b'}, {"hawk_key": "ä"}, {"hawk_secret": "hüsh"},
    ],
)  # fmt: skip
def test_unusable_settings_are_told_without_their_secrets(changes: dict[str, str]) -> None:
    good = Api(url="https://api.example.org/", hawk_key="key", hawk_secret="secret")
    with pytest.raises(ConfigError) as error:
        ApiClient(msgspec.structs.replace(good, **changes), clock=time.time)
    assert "hush" not in str(error.value)
    assert "hüsh" not in str(error.value)


def test_a_hint_leaves_out_what_may_be_a_token() -> None:
    base = "https://api.example.org/v1/c0ffee00c0ffee00c0ffee/"
    shown = Places(Api(url=base, paths=ApiPaths(announce="new"))).announce().shown
    assert shown == "api.example.org:443/v1/…/new"


async def test_mohawk_lays_out_nothing_for_a_log_that_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lay_out(*_: object, **__: object) -> str:
        raise AssertionError("a third of a signature's cost")

    monkeypatch.setattr("pprint.pformat", lay_out)
    monkeypatch.setattr("pprint.PrettyPrinter.pformat", lay_out)
    async with strange_api(says({"id": "a"})) as api, ApiClient(api, clock=time.time) as client:
        assert await client.announce(UPLOAD) == "a"
