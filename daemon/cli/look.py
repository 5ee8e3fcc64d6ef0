"""`dropoffd uploads`, `show`, `status` and `metrics`: the commands that only look."""

from __future__ import annotations

import argparse

from daemon.cli.options import add_config, add_json

STATES = (
    "receiving",
    "received",
    "processing",
    "stored",
    "done",
    "failed",
    "terminated",
    "discarded",
)
BY = ("study", "destination", "stage", "hour", "outcome")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands' parsers."""
    _add_status(commands)
    _add_uploads(commands)
    _add_show(commands)
    _add_metrics(commands)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="how the running daemon is",
        description="How the running daemon is: its queue, what is under way, and how "
        "destinations and REST API are. Exit code 75 where none is running.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument("--watch", action="store_true", help="show it again each second")
    parser.set_defaults(run=_status)


def _add_uploads(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "uploads",
        help="list uploads",
        description="List uploads, newest first. Exit code 3 where none matches.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument("--state", choices=STATES, help="only those in this state")
    parser.add_argument("--study", metavar="ID", type=str.lower, help="only those of this study")
    parser.add_argument(
        "--limit", metavar="N", type=_count, default=50, help="at most so many (%(default)s)"
    )
    parser.set_defaults(run=_uploads)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "show",
        help="one upload whole",
        description="One upload whole, with its deliveries, attempts, errors and reports.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "upload", metavar="UPLOAD", help="its tus id, its own id, or a unique prefix of either"
    )
    parser.set_defaults(run=_show)


def _add_metrics(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "metrics",
        help="what the metrics log tells",
        description="Rates, percentiles and failures out of the metrics log.",
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="metrics logs; else the configured one with all that was rotated out of it",
    )
    parser.add_argument(
        "--since", metavar="24h", type=_duration, help="only what is younger than this"
    )
    parser.add_argument("--by", choices=BY, help="one group of lines for each")
    parser.add_argument(
        "--follow", action="store_true", help="show each line as it is written, until stopped"
    )
    parser.set_defaults(run=_metrics)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return count


def _duration(text: str) -> float:
    from daemon.units import parse_duration  # noqa: PLC0415 - only when a command needs it

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _status(arguments: argparse.Namespace) -> int:
    # Here and below: imported when it runs, so that `dropoffd --help` is quick.
    from daemon.cli import status  # noqa: PLC0415 - see above

    return status.run(arguments)


def _uploads(arguments: argparse.Namespace) -> int:
    from daemon.cli import uploads  # noqa: PLC0415 - see above

    return uploads.run_list(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from daemon.cli import uploads  # noqa: PLC0415 - see above

    return uploads.run_show(arguments)


def _metrics(arguments: argparse.Namespace) -> int:
    from daemon.cli import measured  # noqa: PLC0415 - see above

    return measured.run(arguments)
