"""Which endpoints the REST API may send data to with credentials of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

# Only what every URL parser reads alike: no user, no query, no escapes, no backslash, so that
# what is compared here is what is connected to later.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(/[A-Za-z0-9._~-]+)*)/?",
    re.IGNORECASE | re.ASCII,  # or a Kelvin sign would be a letter, and become a k
)
_PORTS = {"http": 80, "https": 443}


class Endpoint(msgspec.Struct, frozen=True):
    """An endpoint in the parts that count."""

    scheme: str
    host: str
    port: int
    path: tuple[str, ...]


def parse(text: str) -> Endpoint | None:
    """The parts of a plain http(s) URL; None for anything else."""
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    path = tuple(part for part in match["path"].split("/") if part)
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 0 < port < 1 << 16 or {".", ".."} & set(path):
        return None
    return Endpoint(scheme, match["host"].lower(), port, path)


def allowed(endpoint: str, prefixes: Sequence[str]) -> bool:
    """Whether an endpoint is one of the prefixes, or below one by whole parts of its path."""
    wanted = parse(endpoint)
    if wanted is None:
        return False
    for prefix in prefixes:
        known = parse(prefix)
        if (
            known is not None
            and (known.scheme, known.host, known.port) == (wanted.scheme, wanted.host, wanted.port)
            and wanted.path[: len(known.path)] == known.path
        ):
            return True
    return False
