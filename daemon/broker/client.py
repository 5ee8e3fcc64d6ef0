"""The REST API as the daemon asks it: three requests, signed with HAWK."""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from types import TracebackType
from typing import Any, ClassVar, Self

import aiohttp
import msgspec
from aiohttp.client_middlewares import ClientHandlerType

import daemon
from daemon.broker.clock import ServerClock, retry_after
from daemon.broker.hawk import AnswerNotSignedError, Signature, Signer
from daemon.broker.places import Place, Places
from daemon.broker.text import clean, detail
from daemon.errors import ApiRefusedError, ApiUnreachableError, ConfigError
from daemon.plan import Announcing
from daemon.ports import Clock
from daemon.settings import Api
from pipeline.discreet import Discreet

MAX_ANSWER = 1024 * 1024
MAX_ID = 200
_JSON = "application/json"
_SECOND_TRY_AFTER = 0.2
_CONNECT_WITHIN = 5.0
_AWAY = frozenset({408, 425, 429})
"""Statuses of 4xx that say "not now"."""


class Answer(Discreet, frozen=True, kw_only=True):
    """What came back for one try."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"body"})  # a plan may hold credentials

    status: int
    body: bytes
    content_type: str
    server_authorization: str | None
    challenges: tuple[str, ...]
    date: str | None
    retry_after: str | None
    signature: Signature
    offset: float
    """The clock's offset that the try was signed with."""


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What the API says to a question that does no harm."""

    status: int
    signed: bool
    """Whether the answer carries a valid ``Server-Authorization``."""
    said: str
    """Why it refused, in its own words; empty for 2xx."""


class _Announced(msgspec.Struct):
    id: str | int


class ApiClient:
    """An async context manager around one HTTP session.

    Every try is signed anew. A wrong clock on either side is noticed and allowed for, without
    touching the system's; answers of 2xx must be signed unless ``unsigned_answers`` is set.
    Raises ConfigError where ``[api]`` can't be used.
    """

    def __init__(self, settings: Api, *, clock: Clock) -> None:
        self._settings = settings
        self._places = Places(settings)
        self._signer = Signer(settings.hawk_key, settings.hawk_secret)
        self._clock = ServerClock(clock, self._signer)
        self._now = clock
        self._session: aiohttp.ClientSession | None = None

    @property
    def skew(self) -> float | None:
        """Seconds that the API's clock is ahead of ours; None before its first answer."""
        return self._clock.skew

    async def __aenter__(self) -> Self:
        """Open the session. Raises ConfigError where ``ca_file`` can't be read."""
        timeout = aiohttp.ClientTimeout(
            total=self._settings.timeout, sock_connect=min(_CONNECT_WITHIN, self._settings.timeout)
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=await self._tls()),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # the signature is over the bytes as they come
            headers={
                "Accept": _JSON,
                "Accept-Encoding": "identity",
                "User-Agent": f"dropoffd/{daemon.__version__}",
            },
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def announce(self, announcing: Announcing) -> str:
        """Announce an upload and give the API's id for it; safe to repeat with the same key.

        Raises ApiRefusedError, ApiUnreachableError.
        """
        body = {
            "study": announcing.study,
            "filename": announcing.filename,
            "size": announcing.size,
            "metadata": announcing.metadata,
            "client": announcing.client,
            "server": announcing.server,
            "tus_id": announcing.tus_id,
        }
        answer = await self._ask("POST", self._places.announce(), body, announcing.key)
        try:
            given = msgspec.json.decode(answer, type=_Announced).id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiUnreachableError(
                f"the REST API's answer to an announcement is not understood: {clean(str(error))}"
            ) from None
        return _checked_id(str(given))

    async def study(self, study: str) -> bytes:
        """The plan of a study as the API states it, JSON. Raises as :meth:`announce`."""
        return await self._ask("GET", self._places.study(study))

    async def report(self, api_id: str, body: dict[str, Any]) -> None:
        """Send a report; safe to repeat. Raises as :meth:`announce`."""
        await self._ask("POST", self._places.report(api_id), body, str(body.get("report", "")))

    async def probe(self, study: str) -> Probed:
        """Ask for a study's plan, and tell of the answer whatever its status is.

        Raises ApiUnreachableError where there is none.
        """
        place = self._places.study(study)
        answer = await self._answer("GET", place)
        said = ""
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            said = detail(answer.status, answer.body, answer.content_type)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            said = clean(f"{said} (signed for {place.shown})")
        signed = True
        try:
            answer.signature.verify(answer.server_authorization, answer.body, answer.content_type)
        except AnswerNotSignedError:
            signed = False
        return Probed(status=answer.status, signed=signed, said=said)

    async def _ask(self, method: str, place: Place, body: object = None, key: str = "") -> bytes:
        return self._judge(await self._answer(method, place, body, key), place)

    async def _answer(
        self, method: str, place: Place, body: object = None, key: str = ""
    ) -> Answer:
        """The answer to a request, asked again where the clocks differ."""
        content = b"" if body is None else _encoded(body)
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self._persist(method, place, content, headers)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._clock.learn(answer):
            used = answer.offset
            answer = await self._persist(method, place, content, headers)
            if answer.status == HTTPStatus.UNAUTHORIZED:
                self._clock.doubt(used)
        return answer

    async def _persist(
        self, method: str, place: Place, content: bytes, headers: dict[str, str]
    ) -> Answer:
        """One exchange, and a second one where the connection failed.

        A kept connection that the server just closed is the usual reason, and every request of
        ours may be repeated.
        """
        origin = self._places.origin
        left = False
        try:
            try:
                return await self._exchange(method, place, content, headers)
            except aiohttp.ClientConnectionError as error:
                if isinstance(error, TimeoutError | aiohttp.ClientSSLError):
                    raise
                left = not isinstance(error, aiohttp.ClientConnectorError)
                await asyncio.sleep(_SECOND_TRY_AFTER)
                return await self._exchange(method, place, content, headers)
        except TimeoutError as error:
            raise ApiUnreachableError(
                f"no answer from {origin} within {self._settings.timeout:g} s",
                undone=not left and isinstance(error, aiohttp.ConnectionTimeoutError),
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = clean(str(error)) or type(error).__name__
            raise ApiUnreachableError(
                f"{origin} can't be reached: {said}",
                undone=not left and isinstance(error, aiohttp.ClientConnectorError),
            ) from error

    async def _exchange(
        self, method: str, place: Place, content: bytes, headers: dict[str, str]
    ) -> Answer:
        if self._session is None:
            raise RuntimeError("ApiClient is used as an async context manager")
        offset = self._clock.offset
        kind = _JSON if content else ""
        signatures: list[Signature] = []

        async def sign(
            request: aiohttp.ClientRequest, send: ClientHandlerType
        ) -> aiohttp.ClientResponse:
            # aiohttp comes here again where it repeats by itself: no signature goes out twice.
            signature = self._signer.sign(
                method, place.signed, content, kind, int(self._now() + offset)
            )
            signatures.append(signature)
            request.headers["Authorization"] = signature.header
            return await send(request)

        async with self._session.request(
            method,
            place.url,
            data=content or None,
            headers=headers | ({"Content-Type": kind} if kind else {}),
            allow_redirects=False,
            middlewares=(sign,),
        ) as response:
            body = await _limited(response)
            self._clock.observe(response.headers.get("Date"))
            return Answer(
                status=response.status,
                body=body,
                content_type=response.headers.get("Content-Type", ""),
                server_authorization=response.headers.get("Server-Authorization"),
                challenges=tuple(response.headers.getall("WWW-Authenticate", ())),
                date=response.headers.get("Date"),
                retry_after=response.headers.get("Retry-After"),
                signature=signatures[-1],
                offset=offset,
            )

    def _judge(self, answer: Answer, place: Place) -> bytes:
        """The body of a good answer; what a bad one means, raised."""
        status = answer.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            self._trust(answer)
            return answer.body
        said = detail(status, answer.body, answer.content_type)
        if _is_refusal(status):
            if status == HTTPStatus.UNAUTHORIZED:
                said = clean(f"{said} (signed for {place.shown})")
            raise ApiRefusedError(said, status)
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            said = "redirects are not followed; [api] url or a path of [api.paths] is not exact"
        raise ApiUnreachableError(
            clean(f"{self._places.origin} answered {status}: {said}"),
            retry_after(answer.retry_after, self._now()),
            undone=status in _AWAY or _says_later(answer),
        )

    def _trust(self, answer: Answer) -> None:
        if self._settings.unsigned_answers:
            return
        try:
            answer.signature.verify(answer.server_authorization, answer.body, answer.content_type)
        except AnswerNotSignedError as error:
            raise ApiUnreachableError(f"{self._places.origin} is not believed: {error}") from None

    async def _tls(self) -> ssl.SSLContext | bool:
        ca_file = self._settings.ca_file
        if not ca_file:
            return True
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"[api] ca_file: {ca_file}: {error}") from None


def _says_later(answer: Answer) -> bool:
    """Whether it is the server's own no for now: a gateway that lost it says no time."""
    return answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.retry_after is not None


def _is_refusal(status: int) -> bool:
    final = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return final and status not in _AWAY


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise aiohttp.ClientPayloadError(f"the answer is encoded ({clean(encoding)}) unasked")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise aiohttp.ClientPayloadError(f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(body)


def _encoded(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError):  # a lone surrogate is a ValueError
        raise ApiRefusedError("this can't be written as JSON", 400) from None


def _checked_id(text: str) -> str:
    """An id that can stand in a URL and a log line: dots alone would climb in the path."""
    if not 0 < len(text) <= MAX_ID or not text.isprintable() or text in {".", ".."}:
        raise ApiUnreachableError(
            f"the REST API gave an id that is no id: expected 1 to {MAX_ID} printable characters"
        )
    return text
