"""`dropoffd decrypt`: the way back, from files and from where they were stored."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from daemon.cli.options import add_config

if TYPE_CHECKING:
    from pipeline.envelope.base import Readable, Seekable
    from pipeline.envelope.keyfiles import SecretKey
    from pipeline.envelope.ranges import ByteRange
    from pipeline.messages import DestinationSpec
    from pipeline.receipt import Receipt

    Stored = tuple[DestinationSpec, str]
    """A destination, and the name of an object in it."""

STANDARD_INPUT = "-"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``decrypt``."""
    parser = commands.add_parser(
        "decrypt",
        help="decrypt a stored object",
        description="Decrypt a Crypt4GH or age file, or an object where it is stored: by its URI, "
        "or without FILE the one that RECEIPT tells of. With -o nothing appears under OUT unless "
        "all of it is right; what goes to standard output is only right if the exit code is 0.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="the encrypted file, or its URI in a destination of the config (s3://..., "
        "file://...); - is standard input",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="the secret key, or a file of several age identities; not needed for an age file "
        "that is sealed by a passphrase, and where the receipt says that nothing is sealed",
    )
    parser.add_argument(
        "--range",
        metavar="A-B",
        type=_range,
        help="only these bytes of the plaintext, counted from 0, B included as in HTTP; A- is all "
        "from A on, -N the last N. Only what holds them is read. B may lie beyond the end, A may "
        "not",
    )
    parser.add_argument(
        "--receipt",
        metavar="RECEIPT",
        type=Path,
        help="check size and digest against it: that nothing was cut off, swapped or replaced. "
        "Of a range, only the sizes can be checked",
    )
    parser.add_argument(
        "--destination",
        metavar="NAME",
        help="read the object there; needed where the receipt has several deliveries",
    )
    add_config(parser)
    parser.add_argument("-o", "--output", metavar="OUT", type=Path)
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        help="its first line is the passphrase of the key, or of the file if there is no key; "
        "without it a terminal is asked",
    )
    parser.set_defaults(run=_run, parser=parser)


def _range(text: str) -> ByteRange:
    # Here and below: imported when it runs, so that `dropoffd --help` is quick.
    from pipeline.envelope.ranges import ByteRange, RangeError  # noqa: PLC0415 - see above

    try:
        return ByteRange.parse(text)
    except RangeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(arguments: argparse.Namespace) -> int:
    from pipeline import receipt as receipts  # noqa: PLC0415 - see above

    receipt = None if arguments.receipt is None else receipts.read(arguments.receipt)
    stored = _stored(arguments, receipt)
    secret = _secret(arguments, receipt)
    with (
        _plaintext(arguments, stored, secret, receipt) as plaintext,
        _output(arguments.output) as output,
    ):
        for piece in plaintext:
            output.write(piece)
    return 0


def _secret(arguments: argparse.Namespace, receipt: Receipt | None) -> SecretKey | None:
    """What opens the file; None where it isn't sealed."""
    from daemon.cli.keys import passphrase_of, warn_if_open  # noqa: PLC0415 - see above
    from pipeline.envelope.keyfiles import only_passphrase, read_secret  # noqa: PLC0415 - see above

    if arguments.key is not None:
        warn_if_open(arguments.key)
        return read_secret(arguments.key, passphrase_of(arguments.key, arguments.passphrase_file))
    if receipt is not None and receipt.encryption.format == "none":
        return None
    subject = arguments.file or "the object"
    return only_passphrase(passphrase_of(subject, arguments.passphrase_file))


def _stored(arguments: argparse.Namespace, receipt: Receipt | None) -> Stored | None:
    """The destination and the object's name in it; None where it is a file."""
    from daemon.config import load  # noqa: PLC0415 - see above
    from pipeline.destinations.looking import name_of  # noqa: PLC0415 - see above

    usage: argparse.ArgumentParser = arguments.parser
    uri: str | None = arguments.file
    wanted: str | None = arguments.destination
    if uri is None:
        wanted, uri = _delivered(usage, receipt, wanted)
    elif "://" not in uri:
        if wanted is not None:
            usage.error("--destination goes with a URI or a receipt, not with a file")
        return None
    destinations = load(arguments.config).destinations
    known = ", ".join(destinations) or "none"
    if wanted is None:
        found = _holding(uri, [destination.spec for destination in destinations.values()])
        if found is None:
            usage.error(f"{uri} is in none of the configuration's destinations ({known})")
        return found
    if wanted not in destinations:
        usage.error(f"{wanted} is none of the configuration's destinations ({known})")
    spec = destinations[wanted].spec
    return spec, name_of(spec, uri)


def _delivered(
    usage: argparse.ArgumentParser, receipt: Receipt | None, wanted: str | None
) -> tuple[str, str]:
    """Destination and URI of the object that the receipt tells of."""
    if receipt is None:
        usage.error("there is neither FILE nor --receipt")
    uris = {delivery.destination: delivery.uri for delivery in receipt.deliveries}
    if wanted is None and len(uris) == 1:
        return next(iter(uris.items()))
    if wanted not in uris:
        usage.error(f"--destination has to be one of the receipt's: {', '.join(uris)}")
    return wanted, uris[wanted]


def _holding(uri: str, specs: Iterable[DestinationSpec]) -> Stored | None:
    """The first destination that the URI lies in."""
    from pipeline.destinations.looking import name_of  # noqa: PLC0415 - see above
    from pipeline.errors import DestinationRefusedError  # noqa: PLC0415 - see above

    for spec in specs:
        with contextlib.suppress(DestinationRefusedError):
            return spec, name_of(spec, uri)
    return None


@contextmanager
def _plaintext(
    arguments: argparse.Namespace,
    stored: Stored | None,
    secret: SecretKey | None,
    receipt: Receipt | None,
) -> Iterator[Iterator[memoryview]]:
    from pipeline.envelope.opening import open_sealed, open_sealed_range  # noqa: PLC0415 - see above
    from pipeline.envelope.ranges import RangeError  # noqa: PLC0415 - see above

    if arguments.range is None:
        with _whole(arguments.file, stored) as source:
            yield open_sealed(source, secret, receipt)
        return
    usage: argparse.ArgumentParser = arguments.parser
    with _seekable(arguments, stored) as seekable:
        try:
            plaintext = open_sealed_range(seekable, secret, arguments.range, receipt)
        except RangeError as error:
            usage.error(f"argument --range: {error}")
        yield plaintext


@contextmanager
def _whole(name: str, stored: Stored | None) -> Iterator[Readable]:
    """The file from its beginning to its end."""
    if stored is not None:
        from daemon.cli.remote import remote_object  # noqa: PLC0415 - see above

        with remote_object(*stored) as remote:
            yield remote.reader(0, remote.size)
    elif name == STANDARD_INPUT:
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as file:
            yield file


@contextmanager
def _seekable(arguments: argparse.Namespace, stored: Stored | None) -> Iterator[Seekable]:
    """The file at any place."""
    if stored is not None:
        from daemon.cli.remote import remote_object  # noqa: PLC0415 - see above

        with remote_object(*stored) as remote:
            yield remote
        return
    from pipeline.envelope.ranges import FileSource  # noqa: PLC0415 - see above

    path = Path(arguments.file)
    if arguments.file == STANDARD_INPUT or not stat.S_ISREG(path.stat().st_mode):
        arguments.parser.error("--range needs a file that can be read from any place")
    with path.open("rb") as file:
        yield FileSource(file)


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
