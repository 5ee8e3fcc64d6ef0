"""What single values of config.toml have to look like: problems as texts, empty where fine."""

from __future__ import annotations

import re
from string import Formatter
from urllib.parse import urlsplit

from daemon.config_file import describe

_NAME_FIELDS = frozenset({"study", "upload", "filename", "tus_id"})


def template_problem(template: str, known: frozenset[str]) -> str:
    """What is wrong with a template that may hold the ``known`` placeholders."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return "has a brace without its partner"
    allowed = ", ".join(f"{{{field}}}" for field in sorted(known)) or "none"
    for _, field, form, conversion in parts:
        if field is not None and (field not in known or form or conversion):
            found = describe("{" + field + "}")
            return f"found the placeholder {found}, expected: {allowed}"
    return ""


def object_path_problem(template: str) -> str:
    """What is wrong with a destination's ``path``."""
    if problem := template_problem(template, _NAME_FIELDS):
        return problem
    steps = template.split("/")
    if "" in steps or not {".", ".."}.isdisjoint(steps) or not template.isprintable():
        return (
            f"found {describe(template)}, expected a relative path such as "
            '"{study}/{upload}/{filename}"'
        )
    return ""


def with_slash(url: str) -> str:
    """A base URL as one that paths can be put behind; the empty one stays empty."""
    return url if not url or url.endswith("/") else url + "/"


def url_problem(url: str) -> str:
    """What is wrong with a base URL, without its text, which may hold a password; empty if fine."""
    expected = 'expected a URL such as "https://host.example/path/"'
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"not a URL, {expected}"
    if parts.scheme not in {"http", "https"} or not host:
        return f"not a web address, {expected}"
    if parts.username is not None or parts.password is not None:
        return f"holds a user or password, {expected}"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return f"has a query or fragment, {expected}"
    if not url.isascii() or not url.isprintable() or " " in url:
        return f"holds characters that a URL can't, {expected}"
    return ""


def host_problem(host: str) -> str:
    """What is wrong with a server's name or address; empty where it is fine."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", host, re.ASCII) or (
        ":" in host and re.fullmatch(r"[0-9A-Fa-f:.]+", host, re.ASCII)
    ):
        return ""
    found = f"found {describe(host)}" if host else "missing"
    return f'{found}, expected a server such as "sftp.example.org"'


def is_listen(text: str) -> bool:
    """Whether it is ``HOST:PORT``, an IPv6 address in brackets."""
    host, _, port = text.rpartition(":")
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = bool(re.fullmatch(r"[A-Za-z0-9._-]+", inside, re.ASCII))
    address = bool(re.fullmatch(r"[0-9A-Fa-f:.]+", inside, re.ASCII)) and host != inside
    return (
        (plain or address)
        and re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is not None
        and int(port) <= 65535  # noqa: PLR2004 - the last port
    )
