"""`dropoffd run`: the service."""

from __future__ import annotations

import argparse

from daemon.cli.options import add_config

GARBAGE = (20_000, 20, 50)
"""When Python looks for cycles. Its own (700, 10, 10) costs a tenth of the time that many small
uploads take, and finds next to nothing: hardly anything here refers to itself."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``run``."""
    parser = commands.add_parser(
        "run",
        help="the service",
        description="Watch the upload directory and the spool, deliver what is complete, and "
        "report it. The first SIGTERM finishes or parks what is in flight, the second ends at "
        "once.",
    )
    add_config(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal says stop; exit code 0 then."""
    import asyncio  # noqa: PLC0415 -- as every command: only when it runs
    import gc  # noqa: PLC0415

    from daemon.config import load  # noqa: PLC0415
    from daemon.observe import log  # noqa: PLC0415
    from daemon.service import Service  # noqa: PLC0415
    from pipeline import hardening  # noqa: PLC0415

    hardening.keep_to_ourselves()
    hardening.let_nobody_else_write()
    settings = load(arguments.config)
    log.setup()
    gc.freeze()  # what was imported stays for good
    gc.set_threshold(*GARBAGE)
    asyncio.run(Service(settings).run())
    return 0
