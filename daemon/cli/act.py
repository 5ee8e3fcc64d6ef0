"""`dropoffd retry` and `dropoffd discard`: act on failed uploads, through the running daemon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.cli.options import add_config, add_json

if TYPE_CHECKING:
    from daemon.cli.client import Answer

_TIMEOUT = 300.0
"""Seconds. Each upload of an order is durably audited and committed by itself."""
_OK = 200
_FORBIDDEN = 403
_UNAVAILABLE = 503


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands' parsers."""
    retry = commands.add_parser(
        "retry",
        help="have failed uploads go on",
        description="Have failed uploads go on: what destinations hold already is kept. Reports "
        "that the REST API refused are sent again. Exit code 3 where nothing matches, 75 where "
        "no daemon answers.",
    )
    retry.add_argument("uploads", metavar="UPLOAD", nargs="*", help="an id, or its beginning")
    retry.add_argument(
        "--failed", action="store_true", help="all that failed or whose reports are parked"
    )
    add_config(retry)
    add_json(retry)
    retry.set_defaults(run=_retry, parser=retry)

    discard = commands.add_parser(
        "discard",
        help="give failed uploads up, and delete their files",
        description="Give failed uploads up. Their files are deleted, unless [uploads] delete is "
        '"never". Exit code 3 where nothing matches, 75 where no daemon answers.',
    )
    discard.add_argument("uploads", metavar="UPLOAD", nargs="+", help="an id, or its beginning")
    discard.add_argument("--reason", metavar="TEXT", required=True, help="why, for the audit log")
    add_config(discard)
    add_json(discard)
    discard.set_defaults(run=_discard, parser=discard)


def _retry(arguments: argparse.Namespace) -> int:
    if bool(arguments.uploads) == arguments.failed:
        arguments.parser.error("expected either UPLOAD… or --failed")
    order = {"uploads": arguments.uploads, "failed": arguments.failed}
    return _order(arguments, "/control/retry", order)


def _discard(arguments: argparse.Namespace) -> int:
    if not arguments.reason.strip():
        arguments.parser.error("--reason is empty")
    order = {"uploads": arguments.uploads, "reason": arguments.reason.strip()}
    return _order(arguments, "/control/discard", order)


def _order(arguments: argparse.Namespace, target: str, order: dict[str, object]) -> int:
    from daemon.cli.client import ask  # noqa: PLC0415 - quick --help
    from daemon.cli.options import places  # noqa: PLC0415 - see above
    from daemon.cli.output import print_json  # noqa: PLC0415 - see above

    socket = places(arguments).hooks.socket
    answer = ask(socket, "POST", target, order, timeout=_TIMEOUT)
    if answer.status != _OK:
        return _refused(answer, socket)
    told = answer.json()
    outcomes: list[dict[str, Any]] = told["uploads"]
    if arguments.json:
        print_json(told)
    else:
        for outcome in outcomes:
            _tell(outcome)
        if not outcomes:
            _say("no upload has failed")
    if told.get("more"):
        _say("that were not all: give the command again for the rest")
    return _exit_code(outcomes)


def _exit_code(outcomes: list[dict[str, Any]]) -> int:
    """0 all done; 3 nothing matched; 1 one of them could not be done."""
    errors = [(outcome.get("error") or {}).get("code") for outcome in outcomes]
    if all(error == "not_found" for error in errors):
        return 3
    return 0 if all(outcome["done"] for outcome in outcomes) else 1


def _tell(outcome: dict[str, Any]) -> None:
    """What was done on stdout, what wasn't on stderr."""
    from daemon.observe.lines import harmless  # noqa: PLC0415 - see above

    name = outcome["upload"] or outcome["asked"]
    error = outcome.get("error")
    if error is not None:
        left = " (discarded, but its file is left)" if outcome.get("source") == "kept" else ""
        _say(f"{name}: {error['code']}: {error['message']}{left}")
        return
    kept = ", its file is kept" if outcome.get("source") == "kept" else ""
    sys.stdout.write(harmless(f"{name}  {outcome['state']}{kept}") + "\n")


def _refused(answer: Answer, socket: Path) -> int:
    from daemon.cli.client import DaemonUnreachableError  # noqa: PLC0415 - see above

    said = answer.content[:2000].decode(errors="replace").strip()
    if answer.status == _FORBIDDEN:
        _say(said)
        return 1
    if answer.status == _UNAVAILABLE:
        raise DaemonUnreachableError(said)
    raise DaemonUnreachableError(f"the daemon at {socket} answers with {answer.status}")


def _say(message: str) -> None:
    from daemon.observe.lines import harmless  # noqa: PLC0415 - see above

    sys.stderr.write(f"dropoffd: {harmless(message)}\n")
