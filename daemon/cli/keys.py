"""`dropoffd keygen`, and how passphrases of keys are come by."""

from __future__ import annotations

import argparse
import getpass
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from daemon.cli.options import add_json
from daemon.observe.lines import harmless

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LONGEST_PASSPHRASE = 4096


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands' parsers."""
    keygen = commands.add_parser(
        "keygen",
        help="make a key pair",
        description="Make a key pair: FILE gets the secret key, FILE.pub the public one.",
    )
    keygen.add_argument("format", choices=("crypt4gh", "age"))
    keygen.add_argument("file", metavar="FILE", type=Path)
    keygen.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        help="protect the secret key by the first line of this file (crypt4gh only)",
    )
    add_json(keygen)
    keygen.set_defaults(run=keygen_command)


def keygen_command(arguments: argparse.Namespace) -> int:
    """Run `dropoffd keygen`."""
    # Imported when it runs, so that `dropoffd --help` is quick.
    from daemon.cli.output import print_json  # noqa: PLC0415 - see above
    from pipeline.envelope.age_keys import age_generate  # noqa: PLC0415 - see above
    from pipeline.envelope.keyfiles import write_pair  # noqa: PLC0415 - see above
    from pipeline.envelope.keys import crypt4gh_generate  # noqa: PLC0415 - see above

    passphrase_file: Path | None = arguments.passphrase_file
    if arguments.format != "crypt4gh" and passphrase_file is not None:
        _say("only crypt4gh keys can have a passphrase")
        return 2
    passphrase = None if passphrase_file is None else _read_passphrase(passphrase_file)
    pair = age_generate() if arguments.format == "age" else crypt4gh_generate(passphrase)
    secret, public = write_pair(pair, arguments.file)
    if arguments.json:
        print_json({"format": arguments.format, "secret": str(secret), "public": str(public)})
    else:
        sys.stdout.write(f"{secret}\n{public}\n")
    return 0


def passphrase_of(subject: str | Path, passphrase_file: Path | None) -> Callable[[], bytes]:
    """What finds the passphrase, should the key or the file turn out to have one."""

    def find() -> bytes:
        from pipeline.errors import EnvelopeError  # noqa: PLC0415 - see above

        if passphrase_file is not None:
            return _read_passphrase(passphrase_file)
        if not sys.stderr.isatty():
            raise EnvelopeError(f"{subject} is protected by a passphrase: give --passphrase-file")
        return getpass.getpass(f"Passphrase for {subject}: ").encode()

    return find


def _read_passphrase(path: Path) -> bytes:
    from pipeline.errors import EnvelopeError  # noqa: PLC0415 - see above

    warn_if_open(path)
    with path.open("rb") as file:
        line = file.readline(_LONGEST_PASSPHRASE + 2).rstrip(b"\r\n")
    if not line:
        raise EnvelopeError(f"{path} holds no passphrase in its first line")
    if len(line) > _LONGEST_PASSPHRASE:
        raise EnvelopeError(f"{path}: a passphrase has at most {_LONGEST_PASSPHRASE} bytes")
    return line


def warn_if_open(path: Path) -> None:
    """Say so where others can use a file of secrets."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        _say(f"warning: {path} can be used by others (mode {mode:04o})")


def _say(message: str) -> None:
    sys.stderr.write(f"dropoffd: {harmless(message)}\n")
