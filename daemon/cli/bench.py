"""`dropoffd bench`: what this machine and its destinations can do, and what holds them back."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.cli.options import add_config, add_json

if TYPE_CHECKING:
    from daemon.bench.figures import Figure
    from daemon.settings import Settings

_LEAST_SIZE = 1024 * 1024
_LEAST_SECONDS = 0.03


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench``."""
    parser = commands.add_parser(
        "bench",
        help="what this machine and its destinations can do, and what holds them back",
        description="Measure sealing, digests, the upload directory's disk and each destination, "
        "three times each: the median counts, and the spread is shown. Destinations get real "
        "deliveries, which are removed again. Without a config.toml the machine alone is "
        "measured. Exit code 1 where something could not be measured.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--size",
        type=_size,
        default="256MiB",
        help="of the file that is written, read and delivered (%(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default="1",
        help="for each measurement of the machine (%(default)s)",
    )
    parser.set_defaults(run=_run)


def _size(text: str) -> int:
    # Here and below: imported when it runs, so that `dropoffd --help` is quick.
    from daemon.units import parse_size  # noqa: PLC0415 - see above

    try:
        size = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size < _LEAST_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is too little, expected 1MiB at least")
    return size


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_SECONDS <= seconds <= 3600:  # noqa: PLR2004 - an hour
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to an hour")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    from daemon.bench.run import Bench  # noqa: PLC0415 - see above
    from daemon.cli.output import is_terminal  # noqa: PLC0415 - see above

    settings = _settings(arguments)
    shown = is_terminal(sys.stderr)

    def tell(what: str) -> None:
        if shown:
            sys.stderr.write(f"measuring {what} …\n")

    bench = Bench(settings=settings, size=arguments.size, seconds=arguments.seconds)
    with _terminated_as_interrupted():
        figures, others = bench.run(tell)
    if arguments.json:
        _show_json(bench.size, bench.seconds, figures, others)
    else:
        _show(figures, others)
    return 1 if any(figure.error for figure in figures) else 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a measurement as Ctrl-C does: what was delivered is removed first."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _settings(arguments: argparse.Namespace) -> Settings | None:
    """The configuration; None where there is none at all."""
    from daemon.config import find, load  # noqa: PLC0415 - see above
    from daemon.errors import ConfigError  # noqa: PLC0415 - see above

    try:
        find(arguments.config, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"dropoffd: {error.message}; only the machine is measured\n")
        return None
    return load(arguments.config)


def _show(figures: Sequence[Figure], others: float) -> None:
    from daemon.bench.figures import NOISY, gigabytes, sentence  # noqa: PLC0415 - see above
    from daemon.bench.usage import cores, model  # noqa: PLC0415 - see above
    from daemon.cli.output import EMPTY, Column, print_table  # noqa: PLC0415 - see above
    from daemon.observe.lines import harmless  # noqa: PLC0415 - see above

    columns = [
        Column("MEASURED", keep=True),
        Column("GB/S", right=True, keep=True),
        Column("FROM-TO", right=True, keep=True),
        Column("CPU S/GIB", right=True, keep=True),
        Column("NOTE"),
    ]
    rows = []
    for figure in figures:
        cells = [EMPTY, EMPTY, EMPTY, figure.error]
        if figure.samples:
            spread = f"{gigabytes(figure.lowest)}-{gigabytes(figure.highest)}"
            cells = [
                gigabytes(figure.rate),
                spread,
                f"{figure.cpu_seconds_per_gib:.2f}",
                figure.note,
            ]
        rows.append([figure.title, *cells])
    sys.stdout.write(harmless(f"{model()}, {cores()} cores") + "\n\n")
    print_table(columns, rows)
    sys.stdout.write("\n" + harmless(sentence(figures)) + "\n")
    if others >= NOISY:
        sys.stdout.write(
            f"Others used {others:.0%} of the processors meanwhile: more may be had.\n"
        )


def _show_json(size: int, seconds: float, figures: Sequence[Figure], others: float) -> None:
    from daemon.bench.figures import narrowest, sentence  # noqa: PLC0415 - see above
    from daemon.bench.usage import cores, model  # noqa: PLC0415 - see above
    from daemon.cli.output import print_json  # noqa: PLC0415 - see above

    least, close = narrowest(figures)
    print_json(
        {
            "cpu": model(),
            "cores": cores(),
            "size_bytes": size,
            "seconds": seconds,
            "others_busy": round(others, 3),
            "measurements": [_as_json(figure) for figure in figures],
            "narrowest": None if least is None else {"name": least.name, "subject": least.subject},
            "close": [{"name": figure.name, "subject": figure.subject} for figure in close],
            "sentence": sentence(figures),
        }
    )


def _as_json(figure: Figure) -> dict[str, object]:
    told: dict[str, object] = {
        "name": figure.name,
        "subject": figure.subject,
        "needed": figure.needed,
        "error": figure.error or None,
        "note": figure.note or None,
    }
    if figure.samples:
        told |= {
            "bytes_per_second": round(figure.rate),
            "lowest_bytes_per_second": round(figure.lowest),
            "highest_bytes_per_second": round(figure.highest),
            "cpu_seconds_per_gib": round(figure.cpu_seconds_per_gib, 4),
            "repetitions": len(figure.samples),
        }
    return told
