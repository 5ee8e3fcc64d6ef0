"""`dropoffd keygen` and `dropoffd decrypt`: keys, and the way back."""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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

    decrypt = commands.add_parser(
        "decrypt",
        help="decrypt a stored object",
        description="Decrypt a Crypt4GH or age file. With -o nothing appears under OUT unless all"
        " of it is right; what goes to standard output is only right if the exit code is 0.",
    )
    decrypt.add_argument("file", metavar="FILE", help="the encrypted file; - is standard input")
    decrypt.add_argument("--key", metavar="FILE", type=Path, required=True, help="the secret key")
    decrypt.add_argument(
        "--receipt",
        metavar="RECEIPT",
        type=Path,
        help="check size and digest against it: that nothing was cut off, swapped or replaced",
    )
    decrypt.add_argument("-o", "--output", metavar="OUT", type=Path)
    decrypt.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        help="its first line is the secret key's passphrase; without it a terminal is asked",
    )
    decrypt.set_defaults(run=decrypt_command)


def keygen_command(arguments: argparse.Namespace) -> int:
    """Run `dropoffd keygen`."""
    # Here and below: imported when it runs, so that `dropoffd --help` is quick.
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


def decrypt_command(arguments: argparse.Namespace) -> int:
    """Run `dropoffd decrypt`."""
    from pipeline import receipt as receipts  # noqa: PLC0415 - see above
    from pipeline.envelope.keyfiles import read_secret  # noqa: PLC0415 - see above
    from pipeline.envelope.opening import open_sealed  # noqa: PLC0415 - see above

    receipt = None if arguments.receipt is None else receipts.read(arguments.receipt)
    warn_if_open(arguments.key)
    secret = read_secret(arguments.key, passphrase_of(arguments.key, arguments.passphrase_file))
    with _source(arguments.file) as source:
        plaintext = open_sealed(source, secret, receipt)
        with _output(arguments.output) as output:
            for piece in plaintext:
                output.write(piece)
    return 0


@contextmanager
def _source(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as file:
            yield file


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Where plaintext goes. A file comes to its name only when the block ends without an error."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif path.exists() and not path.is_file():
        # A pipe or a device can't be renamed over.
        with path.open("wb") as file:
            yield file
    else:
        with _replacing(path.resolve()) as file:
            yield file


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    # Plaintext may be confidential: readable by its owner only, as mkstemp makes it.
    descriptor, name = tempfile.mkstemp(prefix=".dropoffd-", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def passphrase_of(key: Path, passphrase_file: Path | None) -> Callable[[], bytes]:
    """What finds the passphrase, should the key turn out to have one."""

    def find() -> bytes:
        from pipeline.errors import EnvelopeError  # noqa: PLC0415 - see above

        if passphrase_file is not None:
            return _read_passphrase(passphrase_file)
        if not sys.stderr.isatty():
            raise EnvelopeError(f"{key} is protected by a passphrase: give --passphrase-file")
        return getpass.getpass(f"Passphrase for {key}: ").encode()

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
