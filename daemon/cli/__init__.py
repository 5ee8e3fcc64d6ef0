"""The command line: one module for each group of commands.

A module of commands has ``add(commands)``, which adds its parsers to argparse's subparsers and
sets ``run`` to a function from the parsed arguments to the exit code. What a command needs is
imported when it runs, so that ``dropoffd --help`` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO

from daemon import SOFTWARE
from daemon.observe.lines import harmless
from pipeline.errors import DropoffError

GROUPS = (
    *("service", "demo", "check", "bench", "look", "act"),
    *("keys", "decrypt", "verify", "install", "api"),
)
"""The modules of commands, in the order of the help."""

DONE = 0
FAILED = 1
USAGE = 2
NOTHING = 3
LATER = 75
CONFIG = 78
INTERRUPTED = 130

_EXITS = {
    "config_invalid": CONFIG,
    "api_unreachable": LATER,
    "daemon_unreachable": LATER,
    "not_found": NOTHING,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dropoffd` and give its exit code; ``argv`` is the process's own unless given."""
    for stream in (sys.stdout, sys.stderr):
        _show_anything(stream)
    try:
        code = _run(argv)
        sys.stdout.flush()
    except DropoffError as error:
        for line in error.message.splitlines() or [""]:
            _say(f"{error.code}: {line}")
        return _EXITS.get(error.code, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _closed_pipe()
    except OSError as error:
        reason = error.strerror or str(error)
        _say(reason if error.filename is None else f"{error.filename}: {reason}")
        return FAILED
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    run = getattr(arguments, "run", None)
    if run is None:
        parser.print_help(sys.stderr)
        return USAGE
    return int(run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dropoffd",
        description="Takes finished resumable uploads to encrypted, verified, reported storage.",
        epilog="Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 nothing matched, "
        "75 try again later, 78 configuration error.",
    )
    parser.add_argument("--version", action="version", version=SOFTWARE)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for group in GROUPS:
        try:
            module = import_module(f"{__name__}.{group}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{group}":
                raise
            continue
        module.add(commands)
    return parser


def _show_anything(stream: TextIO) -> None:
    """No text may fail to be shown because of the terminal's encoding."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _say(message: str) -> None:
    sys.stderr.write(f"dropoffd: {harmless(message)}\n")


def _closed_pipe() -> int:
    """Who read our output went away: no message, and none from Python's own flush at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return FAILED
