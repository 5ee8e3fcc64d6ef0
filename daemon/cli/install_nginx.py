"""`dropoffd install nginx`: the virtual URL that says which study an upload belongs to."""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daemon.cli.install_files import PLAIN_PATH, filled
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.settings import Settings

PREFIX = "/uploads"
UPSTREAM = "http://127.0.0.1:1080/files/"
OPERATORS = frozenset({"tus.vhost.conf"})
"""Files that are written once: their owner goes on with them."""

_NAMES = ("dropoff_tus.js", "tus.location.inc", "tus.vhost.conf")
_STEPS = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)
_METADATA_KEY = re.compile(r"[!-+\--~]+", re.ASCII)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only `install nginx` takes."""
    parser.add_argument(
        "--prefix",
        default=PREFIX,
        metavar="PATH",
        help=f"nginx: the path below which clients upload ({PREFIX})",
    )
    parser.add_argument(
        "--upstream",
        default=UPSTREAM,
        metavar="URL",
        help=f"nginx: where the tus server takes uploads ({UPSTREAM})",
    )


def nginx(
    settings: Settings | None,
    directory: Path,
    *,
    server: str = "tusd",
    prefix: str = PREFIX,
    upstream: str = UPSTREAM,
) -> dict[str, str]:
    """The texts of nginx's files, by name.

    Args:
        settings: Name the metadata key of the study, and whether ids lie below their study.
        directory: Where they will be: absolute, since one includes the other.
        server: ``tusd``, ``tusd1`` or ``rustus``; only the first can keep ids below a study.
        prefix: The path below which clients upload.
        upstream: The URL where the tus server takes uploads.

    Raises ConfigError where one of these can't be used.
    """
    key = "study" if settings is None else settings.uploads.study_key
    if not _METADATA_KEY.fullmatch(key):
        raise ConfigError(
            "[uploads] study_key: expected visible ASCII without spaces and commas, as tus has it"
        )
    if not PLAIN_PATH.fullmatch(str(directory)):
        raise ConfigError(f"{directory}: expected a path without spaces and such, for nginx")
    nested = server == "tusd" and settings is not None and settings.hooks.study_ids
    origin, base = _upstream(upstream)
    fields = {
        "PREFIX": _prefix(prefix),
        "SERVER": origin,
        "BASE": base,
        # In the module it stands in quotes.
        "KEY": key.replace("\\", "\\\\").replace('"', '\\"'),
        "NESTED": "true" if nested else "false",
        "DIRECTORY": str(directory),
    }
    share = files("daemon") / "share" / "nginx"
    return {name: filled(share / name, fields) for name in _NAMES}


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not _STEPS.fullmatch(prefix):
        raise ConfigError(f"--prefix {text!r}: expected a path such as {PREFIX}")
    return prefix


def _upstream(text: str) -> tuple[str, str]:
    """Scheme and address, and the path with a slash at its end."""
    parts = urlsplit(text)
    path = parts.path.rstrip("/")
    plain = parts.scheme == "http" and _HOST.fullmatch(parts.netloc)
    if not plain or parts.query or parts.fragment or (path and not _STEPS.fullmatch(path)):
        raise ConfigError(f"--upstream {text!r}: expected a URL such as {UPSTREAM}")
    return f"http://{parts.netloc}", f"{path}/"
