"""The reference REST API: the contract's requests over the studies of the config.

For trying dropoffd out, for its tests, and to write another API after. Every answer to a signed
request is signed; what the requests and answers are is in :mod:`daemon.broker.openapi`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web
from yarl import URL

import daemon
from daemon.broker import openapi, overview
from daemon.broker.drops import Drop, Drops, Taken
from daemon.broker.guard import Admission, Guard, UnauthorizedError
from daemon.broker.text import clean
from daemon.errors import ConfigError
from daemon.ports import Clock
from daemon.settings import Settings, Study

MAX_BODY = 1024 * 1024
MAX_LISTED = 1000
_JSON = "application/json"
_JSON_HEADER = f"{_JSON}; charset=utf-8"
_Int = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_ADMISSION = web.RequestKey("admission", Admission)

S = TypeVar("S", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Announcement(msgspec.Struct):
    study: str
    filename: str
    size: _Int | None = None
    metadata: dict[str, str] = {}
    client: str = ""
    server: str = ""
    tus_id: str | None = None


class _Report(msgspec.Struct):
    report: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    sequence: _Int
    state: Literal["receiving", "received", "processing", "stored", "failed", "terminated"]


class RefusedError(Exception):
    """A request that gets a 4xx with this as its ``detail``."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ReferenceApi:
    """The handlers. ``application`` is what aiohttp serves.

    Args:
        settings: Studies and destinations are served from it; ``[api]`` has the credentials and,
            with the path of its ``url``, where all of it lies.
        drops: Open; stays the caller's.
        clock: As ``time.time``.

    Raises:
        ConfigError: HAWK key or secret are missing.
    """

    def __init__(self, settings: Settings, drops: Drops, *, clock: Clock) -> None:
        api = settings.api
        if not api.hawk_key or not api.hawk_secret:
            raise ConfigError(
                "DROPOFF_API_HAWK_KEY and DROPOFF_API_HAWK_SECRET: expected both; they are what "
                "the daemon signs with"
            )
        self._settings = settings
        self._drops = drops
        self._clock = clock
        self._guard = Guard(api.hawk_key, api.hawk_secret, clock=clock)
        self._public = [URL(url).origin() for url in (api.sign_as, api.url) if url]

    def application(self) -> web.Application:
        """All routes, below :attr:`base`."""
        paths, base = self._settings.api.paths, self.base
        app = web.Application(middlewares=[self._answer], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get(base, self._overview),
                web.get(base + "openapi.json", self._openapi),
                web.post(base + paths.announce, self._signed(self._announce)),
                web.get(base + paths.announce, self._signed(self._list)),
                web.get(base + paths.announce + "{upload}/", self._signed(self._show)),
                web.get(base + paths.study, self._signed(self._plan)),
                web.post(base + paths.report, self._signed(self._report)),
            ]
        )
        return app

    @property
    def base(self) -> str:
        """The path of ``[api] url``, ``/`` at its end."""
        path = URL(self._settings.api.url).path if self._settings.api.url else "/"
        return path.rstrip("/") + "/"

    # What surrounds the handlers ------------------------------------------------------------

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn refusals into JSON, and sign what answers a signed request."""
        headers = {}
        try:
            response = await handler(request)
        except RefusedError as refusal:
            response = _json({"detail": str(refusal)}, refusal.status)
        except UnauthorizedError as refusal:
            response = _json({"detail": str(refusal)}, HTTPStatus.UNAUTHORIZED)
            headers["WWW-Authenticate"] = refusal.challenge
        except web.HTTPException as refusal:
            response = _json({"detail": f"{refusal.reason}."}, refusal.status)
        admission = request.get(_ADMISSION)
        if admission is not None and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes) else b""
            kind = response.headers.get("Content-Type", "")
            headers["Server-Authorization"] = admission.sign(body, kind)
        response.headers.update(headers)
        response.headers["Server"] = f"dropoffd/{daemon.__version__}"
        return response

    def _signed(self, handler: Handler) -> Handler:
        async def admitted(request: web.Request) -> web.StreamResponse:
            request[_ADMISSION] = self._guard.admit(
                request.headers.get("Authorization"),
                request.method,
                self._urls(request),
                await request.read(),
                request.headers.get("Content-Type", ""),
            )
            return await handler(request)

        return admitted

    def _urls(self, request: web.Request) -> list[str]:
        """The request's URL as it came, and as it was before a proxy that we were told of."""
        origins = [f"{request.scheme}://{request.host}", *map(str, self._public)]
        return [origin + request.raw_path for origin in dict.fromkeys(origins)]

    # The contract's requests ----------------------------------------------------------------

    async def _announce(self, request: web.Request) -> web.Response:
        said, whole = await _read(request, _Announcement)
        key = request.headers.get("Idempotency-Key", "")[:200]
        try:
            self._check(said)
        except RefusedError:
            known = await self._drops.known(key) if key else None
            if known is None:
                raise
            return _json({"id": known})
        given, new = await self._drops.announce(key, whole, self._clock())
        return _json({"id": given}, HTTPStatus.CREATED if new else HTTPStatus.OK)

    def _check(self, said: _Announcement) -> None:
        study = self._open_study(said.study)
        if study.max_size is not None and said.size is not None and said.size > study.max_size:
            raise RefusedError(413, f"Uploads to study {study.id} may have {study.max_size} bytes.")

    async def _plan(self, request: web.Request) -> web.Response:
        study = self._open_study(request.match_info["study"])
        return _json(
            {
                "study": study.id,
                "open": study.open,
                "max_size": study.max_size,
                "encrypt": study.encrypt,
                "recipients": study.recipients,
                "destinations": [{"use": name} for name in study.destinations],
            }
        )

    async def _report(self, request: web.Request) -> web.Response:
        _, whole = await _read(request, _Report)
        upload = request.match_info["upload"]
        match await self._drops.report(upload, whole):
            case Taken.NEW:
                return _json({}, HTTPStatus.CREATED)
            case Taken.REPEATED:
                return _json({})
            case Taken.CONFLICT:
                raise RefusedError(409, "This report came before, with another body.")
            case Taken.UNKNOWN:
                raise RefusedError(404, "No such upload was announced.")

    def _open_study(self, name: str) -> Study:
        study = self._settings.studies.get(name.lower())
        if study is None:
            raise RefusedError(404, f"Study {clean(name, 100)} is not known.")
        if not study.open:
            raise RefusedError(403, f"Study {study.id} is closed.")
        return study

    # For people -----------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LISTED):
            raise RefusedError(400, f"limit: expected 1 to {MAX_LISTED}")
        study = request.query.get("study")
        found = await self._drops.listed(study and study.lower(), int(limit))
        return _json({"uploads": [_shown(drop) for drop in found]})

    async def _show(self, request: web.Request) -> web.Response:
        drop = await self._drops.drop(request.match_info["upload"])
        if drop is None:
            raise RefusedError(404, "No such upload was announced.")
        return _json(_shown(drop) | {"reports": drop.reports})

    async def _overview(self, request: web.Request) -> web.Response:
        # A browser can't sign, so the page is for who sits at the machine only.
        if not _is_here(request.remote):
            raise RefusedError(403, "The overview is shown on this machine only.")
        drops = await self._drops.listed(None, overview.SHOWN)
        text = overview.page(drops)
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return web.Response(
            text=text, content_type="text/html", headers={"Content-Security-Policy": policy}
        )

    async def _openapi(self, _: web.Request) -> web.Response:
        return _json(openapi.description(self._settings.api.paths, self.base))


async def _read(request: web.Request, kind: type[S]) -> tuple[S, dict[str, Any]]:
    """A body's known fields, checked, and all of it."""
    body = await request.read()
    try:
        return msgspec.json.decode(body, type=kind), msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, f"That is not understood: {clean(str(error))}") from None


def _json(value: object, status: int = HTTPStatus.OK) -> web.Response:
    # The header as a whole: what is signed must be what is sent.
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers={"Content-Type": _JSON_HEADER}
    )


def _shown(drop: Drop) -> dict[str, Any]:
    return {
        "id": drop.id,
        "announced_at": overview.rfc3339(drop.announced_at),
        "state": drop.state,
        **{name: value for name, value in drop.announcement.items() if name not in {"id", "state"}},
    }


def _is_here(address: str | None) -> bool:
    try:
        return address is not None and ip_address(address).is_loopback
    except ValueError:
        return False
