"""`dropoffd api`: the reference REST API."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

LISTEN = "127.0.0.1:8120"
_FAILED = 1


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    api = commands.add_parser(
        "api",
        help="serve the reference REST API",
        description="Serve the REST API of the contract over the studies of the config, with a"
        " page of data drops and its OpenAPI description.",
    )
    api.add_argument("--config", metavar="FILE", type=Path, help="instead of the usual config.toml")
    api.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=listen_address,
        default=LISTEN,
        help="port 0 takes a free one (default: %(default)s)",
    )
    api.set_defaults(run=run)


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, an IPv6 address in brackets. Raises ArgumentTypeError."""
    from daemon.config_checks import is_listen  # noqa: PLC0415 - `--help` is quick without it

    if not is_listen(text):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as {LISTEN}, found {text!r}")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def run(arguments: argparse.Namespace) -> int:
    """Run `dropoffd api`. Raises ConfigError, OSError."""
    # Imported when it runs, so that `dropoffd --help` is quick.
    import asyncio  # noqa: PLC0415 - see above
    import sqlite3  # noqa: PLC0415 - see above

    from daemon.broker.serving import serve  # noqa: PLC0415 - see above
    from daemon.config import load  # noqa: PLC0415 - see above
    from pipeline.hardening import keep_to_ourselves  # noqa: PLC0415 - see above

    keep_to_ourselves()
    host, port = arguments.listen
    try:
        asyncio.run(serve(load(arguments.config), host, port, _ready))
    except sqlite3.Error as error:
        sys.stderr.write(f"dropoffd: the database of data drops can't be used: {error}\n")
        return _FAILED
    return 0


def _ready(url: str) -> None:
    sys.stderr.write(f"dropoffd api listens on {url}\n")
    sys.stderr.flush()
