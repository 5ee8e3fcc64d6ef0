"""A stand-in for Nextcloud: its WebDAV with chunked upload, as its developer manual tells of it.

Nextcloud itself (PHP, a database, a web server) is too much for a test. This speaks what a delivery
needs of `/remote.php/dav/files/` and `/remote.php/dav/uploads/`, holds clients to what the manual
asks of them, and can be told to fail. What it can't show is how Nextcloud behaves beyond the
manual; beside it, `rclone serve webdav` is the real server of the tests.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import socket
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

MIN_CHUNK: Final = 5 * 1000**2
MAX_CHUNKS: Final = 10_000
DAV: Final = "/remote.php/dav"


class NextcloudLike:
    """Serves one user's files below ``directory / "files"``. An async context manager.

    ``lingering`` are the seconds that it reads on after it said no, so that this is heard.
    """

    def __init__(self, directory: Path, *, lingering: float = 1.0) -> None:
        self.user = "alice"
        self.password = "tests-password"
        self.files = directory / "files"
        self.uploads = directory / "uploads"
        self.quota = 1 << 40
        self.requests: list[str] = []
        self.late_moves = 0
        """So many moves are done, but answered as a gateway does that lost patience."""
        self.refused_moves = 0
        """So many moves are not done, and answered as by a gateway without a server."""
        self.failing = 0
        """So many requests are answered as in maintenance."""
        self.damaged = 0
        """So many assemblies have a wrong byte."""
        self.hashes = True
        """Whether it counts an MD5 for who asks."""
        for each in (self.files, self.uploads):
            each.mkdir()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", DAV + "/files/alice{path:.*}", self._on_file)
        app.router.add_route("*", DAV + "/uploads/alice{path:.*}", self._on_upload)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1, lingering_time=lingering
        )
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"{self.origin}{DAV}/files/{self.user}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def etag(self, name: str) -> str:
        """Of one of the user's files."""
        return _etag(self.files / name).strip('"')

    def forget_uploads(self) -> None:
        """As after a day without activity."""
        for folder in self.uploads.iterdir():
            shutil.rmtree(folder)

    async def _on_file(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        path = _below(self.files, request.match_info["path"])
        match request.method:
            case "PROPFIND":
                return _listing(request, path)
            case "MKCOL":
                return _mkcol(path)
            case "PUT":
                return await self._put(request, path)
            case "GET" | "HEAD" if path.is_file():
                return web.FileResponse(path)
            case "DELETE":
                return _delete(path)
            case "MOVE":
                _existing(path)
                return self._moved(request, path)
        raise web.HTTPNotFound

    async def _on_upload(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        path = _below(self.uploads, request.match_info["path"])
        if request.method in {"MKCOL", "PUT", "MOVE"} and "Destination" not in request.headers:
            raise web.HTTPBadRequest(text="no Destination")
        match request.method:
            case "PROPFIND":
                return _listing(request, path)
            case "MKCOL":
                return _mkcol(path)
            case "PUT":
                if not (path.name.isdigit() and 1 <= int(path.name) <= MAX_CHUNKS):
                    raise web.HTTPBadRequest(text="no chunk's name")
                return await self._put(request, path, int(request.headers["OC-Total-Length"]))
            case "MOVE" if path.name == ".file":
                return self._assembled(request, _existing(path.parent))
            case "DELETE":
                return _delete(path)
        raise web.HTTPMethodNotAllowed(request.method, ["PROPFIND", "MKCOL", "PUT", "DELETE"])

    def _check(self, request: web.Request) -> None:
        self.requests.append(f"{request.method} {request.path}")
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {pair}":
            raise web.HTTPUnauthorized
        if self.failing:
            self.failing -= 1
            raise web.HTTPServiceUnavailable
        if "Cookie" in request.headers:
            raise web.HTTPPreconditionFailed(text="cookies, but not the strict ones")

    async def _put(
        self, request: web.Request, path: Path, total: int | None = None
    ) -> web.StreamResponse:
        if not path.parent.is_dir():
            raise web.HTTPConflict if path.is_relative_to(self.files) else web.HTTPNotFound
        if (total or request.content_length or 0) > self.quota:
            raise web.HTTPInsufficientStorage(
                text="<d:error><s:message>Insufficient space, 1 required</s:message></d:error>"
            )
        md5 = hashlib.md5(usedforsecurity=False)
        with path.with_name(path.name + ".part").open("wb") as file:
            async for piece in request.content.iter_chunked(1 << 20):
                md5.update(piece)
                file.write(piece)
        path.with_name(path.name + ".part").rename(path)
        headers = {"Set-Cookie": "oc_sessionPassphrase=x", "OC-ETag": _etag(path)}
        if self.hashes and request.headers.get("X-Hash") == "md5":
            headers["X-Hash-MD5"] = md5.hexdigest()
        return web.Response(status=201, headers=headers)

    def _assembled(self, request: web.Request, folder: Path) -> web.StreamResponse:
        chunks = sorted(folder.iterdir(), key=lambda chunk: chunk.name)
        if any(chunk.stat().st_size < MIN_CHUNK for chunk in chunks[:-1]):
            raise web.HTTPBadRequest(text="a chunk is too small")
        whole = folder.with_name(folder.name + ".whole")
        with whole.open("wb") as file:
            for chunk in chunks:
                file.write(chunk.read_bytes())
        if whole.stat().st_size != int(request.headers["OC-Total-Length"]):
            raise web.HTTPBadRequest(text="chunks on the server do not sum up")
        if self.damaged:
            self.damaged -= 1
            with whole.open("r+b") as file:
                file.write(b"!")
        answer = self._moved(request, whole)
        shutil.rmtree(folder)
        return answer

    def _moved(self, request: web.Request, path: Path) -> web.StreamResponse:
        if self.refused_moves:
            self.refused_moves -= 1
            raise web.HTTPBadGateway
        to = urlsplit(request.headers["Destination"]).path.removeprefix(f"{DAV}/files/{self.user}")
        target = _below(self.files, unquote(to))
        stood = target.exists()
        if stood and request.headers.get("Overwrite", "T") == "F":
            raise web.HTTPPreconditionFailed(text="The destination node already exists")
        if not target.parent.is_dir():
            raise web.HTTPConflict
        path.rename(target)
        if self.late_moves:
            self.late_moves -= 1
            raise web.HTTPGatewayTimeout
        return web.Response(status=204 if stood else 201)


def _below(root: Path, path: str) -> Path:
    found = root / path.strip("/")
    if ".." in found.parts:
        raise web.HTTPForbidden
    return found


def _existing(path: Path) -> Path:
    if not path.exists():
        raise web.HTTPNotFound
    return path


def _mkcol(path: Path) -> web.StreamResponse:
    if path.exists():
        raise web.HTTPMethodNotAllowed("MKCOL", [])
    if not path.parent.is_dir():
        raise web.HTTPConflict
    path.mkdir()
    return web.Response(status=201)


def _delete(path: Path) -> web.StreamResponse:
    _existing(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return web.Response(status=204)


def _listing(request: web.Request, path: Path) -> web.StreamResponse:
    _existing(path)
    listed = [path]
    if request.headers.get("Depth") == "1" and path.is_dir():
        listed += sorted(path.iterdir())
    root = request.path.rstrip("/")
    text = "".join(
        _response(root if each == path else f"{root}/{each.name}", each) for each in listed
    )
    return web.Response(
        status=207,
        content_type="application/xml",
        text=f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{text}</d:multistatus>',
    )


def _response(href: str, path: Path) -> str:
    if path.is_dir():
        href, told = href + "/", "<d:resourcetype><d:collection/></d:resourcetype>"
    else:
        told = (
            f"<d:resourcetype/><d:getcontentlength>{path.stat().st_size}</d:getcontentlength>"
            f"<d:getetag>{_quoted(_etag(path))}</d:getetag>"
        )
    return (
        f"<d:response><d:href>{quote(href)}</d:href>"
        f"<d:propstat><d:prop>{told}</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
        "<d:propstat><d:prop><d:checksums/></d:prop><d:status>HTTP/1.1 404 Not Found</d:status>"
        "</d:propstat></d:response>"
    )


def _etag(path: Path) -> str:
    """As `web.FileResponse` tells it: whoever asks, and how, hears the same."""
    found = path.stat()
    return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
