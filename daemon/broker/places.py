"""Where the REST API is: the URL that goes on the wire, and the one that is signed."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from yarl import URL

from daemon.errors import ConfigError
from daemon.settings import Api

_TOKEN = 16
"""Characters. A part of a path that is as long may be a token."""


class Place(msgspec.Struct, frozen=True):
    """One resource of the API."""

    url: URL
    """Goes on the wire as it stands."""
    signed: str
    """What HAWK signs: the same, but for a proxy that changes it."""
    shown: str
    """Host, port and path as signed, for hints: servers only say "bad mac".

    A part of the API's own path that may be a token is left out.
    """


class Places:
    """The API's resources by name.

    Raises ConfigError where ``[api] url`` or ``sign_as`` is no base URL.
    """

    def __init__(self, api: Api) -> None:
        self._paths = api.paths
        self._base = _base(api.url, "url")
        self._signed = _base(api.sign_as, "sign_as") if api.sign_as else self._base

    @property
    def origin(self) -> str:
        """Scheme, host and port, for messages."""
        return str(URL(self._base).origin())

    def announce(self) -> Place:
        """Where uploads are announced."""
        return self._place(self._paths.announce)

    def study(self, study: str) -> Place:
        """Where a study's plan is."""
        return self._place(self._paths.study.replace("{study}", quote(study, safe="")))

    def report(self, upload: str) -> Place:
        """Where an upload's reports go; ``upload`` is the API's id for it."""
        return self._place(self._paths.report.replace("{upload}", quote(upload, safe="")))

    def _place(self, path: str) -> Place:
        relative = path.lstrip("/")
        signed = _wire(self._signed + relative)
        base = "/".join(
            part if len(part) < _TOKEN else "…" for part in URL(self._signed).raw_path.split("/")
        )
        shown = f"{signed.host}:{signed.port}{base}{relative}"
        return Place(_wire(self._base + relative), str(signed), shown)


def _base(text: str, key: str) -> str:
    try:
        url = URL(text)
        valid = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        valid, url = False, URL()
    if not valid:
        raise ConfigError(f"[api] {key}: expected a URL as https://api.example.org/")
    if url.user is not None or url.password is not None:
        raise ConfigError(f"[api] {key}: a name or password in it is never sent; remove it")
    if url.raw_query_string or url.raw_fragment:
        raise ConfigError(f"[api] {key}: expected a base URL without ? and #")
    return str(url).rstrip("/") + "/"


def _wire(text: str) -> URL:
    """The URL in the one form that HTTP client, HAWK client and any server read alike.

    yarl writes ``;`` for ``%3B``, and mohawk drops what follows a ``;`` in the last part of a path.
    """
    url = URL(text)
    if ";" not in url.raw_path:
        return url
    tail = f"?{url.raw_query_string}" if url.raw_query_string else ""
    return URL(f"{url.origin()}{url.raw_path.replace(';', '%3B')}{tail}", encoded=True)
