"""`dropoffd verify`: whether what a receipt tells of is still so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.options import add_config, add_json

if TYPE_CHECKING:
    from daemon.verification import Verdict


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verify``."""
    parser = commands.add_parser(
        "verify",
        help="hold files and stored objects against a receipt",
        description="Hold a file, or what the destinations have, against a receipt. A sealed "
        "file is held against size and checksum of the stored object, with --key against size "
        "and digest of the plaintext too; the original file is recognised. Exit code 0 only if "
        "all of it holds.",
    )
    parser.add_argument("receipt", metavar="RECEIPT", type=Path)
    parser.add_argument("--file", metavar="PATH", type=Path, help="a copy of the stored object")
    parser.add_argument(
        "--key", metavar="KEY", type=Path, help="a recipient's secret key, to look inside the file"
    )
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        help="its first line is the secret key's passphrase; without it a terminal is asked",
    )
    parser.add_argument(
        "--remote", action="store_true", help="look at each destination; nothing is changed there"
    )
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415 - quick --help

    from daemon.cli.keys import passphrase_of, warn_if_open  # noqa: PLC0415 - see above
    from daemon.config import load  # noqa: PLC0415 - see above
    from daemon.verification import (  # noqa: PLC0415 - see above
        check_deliveries,
        check_file,
        check_itself,
    )
    from pipeline import receipt as receipts  # noqa: PLC0415 - see above
    from pipeline.envelope.keyfiles import read_secret  # noqa: PLC0415 - see above

    if arguments.key is not None and arguments.file is None:
        arguments.parser.error("--key looks inside --file, which is missing")
    receipt = receipts.read(arguments.receipt)
    verdicts: list[Verdict] = [*check_itself(receipt)]
    if arguments.file is not None:
        secret = None
        if arguments.key is not None:
            warn_if_open(arguments.key)
            secret = read_secret(
                arguments.key, passphrase_of(arguments.key, arguments.passphrase_file)
            )
        verdicts += check_file(receipt, arguments.file, secret)
    if arguments.remote:
        destinations = load(arguments.config).destinations
        verdicts += asyncio.run(check_deliveries(receipt, destinations))
    _show(receipt.upload, verdicts, as_json=arguments.json)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


def _show(upload: str, verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    from daemon.cli.output import print_json  # noqa: PLC0415 - see above
    from daemon.observe.lines import harmless  # noqa: PLC0415 - see above

    holds = all(verdict.holds for verdict in verdicts)
    if as_json:
        print_json({"upload": upload, "holds": holds, "verdicts": verdicts})
        return
    for verdict in verdicts:
        word = "ok    " if verdict.holds else "FAILED"
        sys.stdout.write(harmless(f"{word}  {verdict.subject}: {verdict.message}") + "\n")
