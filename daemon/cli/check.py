"""`dropoffd check`: all that can be known before the first upload."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.options import add_config, add_json

if TYPE_CHECKING:
    from daemon.checks.findings import Finding


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check``."""
    parser = commands.add_parser(
        "check",
        help="all that can be known before the first upload",
        description="Look at configuration, permissions, disk space, journal, REST API, "
        "destinations and keys, and say what to do about what is found. At each destination a "
        "small object is written, read back and deleted. Exit code 1 where something is wrong, "
        "78 where the configuration can't be used.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--hooks",
        metavar="DIR",
        type=Path,
        help="the tus server's hook directory: try the pre-create in it, without the daemon",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415 - quick --help

    from daemon.checks.all import checks_for  # noqa: PLC0415 - see above
    from daemon.checks.findings import Status, run_checks, worst  # noqa: PLC0415 - see above
    from daemon.checks.findings import error as failed  # noqa: PLC0415 - see above
    from daemon.config import load  # noqa: PLC0415 - see above
    from daemon.errors import ConfigError  # noqa: PLC0415 - see above

    try:
        settings = load(arguments.config)
    except ConfigError as error:
        if not arguments.json:
            raise
        advice = "correct it, and check again"
        _show_json([failed("config", line, advice) for line in error.message.splitlines()])
        return 78
    hooks = None if arguments.hooks is None else arguments.hooks.absolute()
    findings = asyncio.run(run_checks(checks_for(settings, hooks)))
    if arguments.json:
        _show_json(findings)
    else:
        _show(findings)
    return 1 if worst(findings) is Status.ERROR else 0


def _show_json(findings: Sequence[Finding]) -> None:
    from daemon.checks.findings import worst  # noqa: PLC0415 - see above
    from daemon.cli.output import print_json  # noqa: PLC0415 - see above

    print_json({"status": worst(findings).value, "findings": findings})


def _show(findings: Sequence[Finding]) -> None:
    from daemon.checks.findings import Status  # noqa: PLC0415 - see above
    from daemon.cli.output import Column, print_table  # noqa: PLC0415 - see above

    columns = (Column("IS", keep=True), Column("CHECK", keep=True), Column("FOUND"))
    print_table(columns, [(each.status.value, _name(each), each.message) for each in findings])
    bad = [each for each in findings if each.status is not Status.OK]
    if bad:
        sys.stdout.write("\nWhat to do\n")
    for each in bad:
        _advise(each)


def _advise(finding: Finding) -> None:
    """In full, on lines of its own: a table may have cut it."""
    from daemon.observe.lines import harmless  # noqa: PLC0415 - see above

    sys.stdout.write(harmless(f"{_name(finding)}: {finding.message}") + "\n")
    if finding.advice:
        sys.stdout.write(harmless(f"    {finding.advice}") + "\n")


def _name(finding: Finding) -> str:
    return f"{finding.check} {finding.subject}".rstrip()
