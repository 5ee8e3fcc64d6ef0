"""The installed hooks: pre-create refuses while the daemon is away, as it is tried for real."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from daemon.checks.findings import Finding, error, ok, warning
from daemon.settings import Settings

TIMEOUT = 20.0
_INSTALL = "dropoffd install hooks --directory {directory} --server {server}"
_UNAVAILABLE = 503
_OTHERS = ("post-create", "post-finish", "post-terminate")
"""Of the hooks that only hint; each server has more of them."""
_EVENTS = {
    "tusd": {
        "Type": "pre-create",
        "Event": {
            "Upload": {"ID": "", "Size": 1, "Offset": 0, "MetaData": {"filename": "check"}},
            "HTTPRequest": {"RemoteAddr": "127.0.0.1:1"},
        },
    },
    "tusd1": {
        "Upload": {"ID": "", "Size": 1, "Offset": 0, "MetaData": {"filename": "check"}},
        "HTTPRequest": {"RemoteAddr": "127.0.0.1:1"},
    },
    "rustus": {
        "upload": {"id": "", "offset": 0, "length": 1, "metadata": {"filename": "check"}},
        "request": {"remote_addr": "127.0.0.1:1"},
    },
}


def installed(settings: Settings, directory: Path) -> Sequence[Finding]:
    """The hooks in a tus server's hook directory. Blocks for as long as the hook takes."""
    return list(_installed(settings, directory))


def _installed(settings: Settings, directory: Path) -> Iterator[Finding]:
    hook = directory / "pre-create"
    if not hook.is_file():
        yield error(
            "hooks",
            f"{hook} is not there: every upload is let through",
            _INSTALL.format(directory=directory, server="tusd|tusd1|rustus"),
        )
        return
    if not os.access(hook, os.R_OK | os.X_OK, effective_ids=True):
        yield error("hooks", f"{hook} can't be run", f"chmod 755 {hook}")
        return
    text = hook.read_text(encoding="utf-8", errors="replace")
    server = _setting(text, "server")
    again = _INSTALL.format(directory=directory, server=server or "tusd")
    if server not in _EVENTS or _setting(text, "socket") is None:
        yield warning("hooks", f"{hook} is not ours, and was not tried", again)
        return
    if _setting(text, "socket") != str(settings.hooks.socket):
        yield error(
            "hooks", f"{hook} asks on {_setting(text, 'socket')}: nobody answers there", again
        )
    else:
        yield _try_refusing(hook, text, server, again)
    yield from _hints(settings, directory, again)


def _hints(settings: Settings, directory: Path, again: str) -> Iterator[Finding]:
    for name in _OTHERS:
        hook = directory / name
        if not os.access(hook, os.X_OK, effective_ids=True):
            yield warning("hooks", f"{hook} is not there: uploads are found later", again, name)
        elif _setting(hook.read_text(errors="replace"), "spool") != str(settings.spool):
            yield warning("hooks", f"{hook} writes to another spool", again, name)


def _try_refusing(hook: Path, text: str, server: str, again: str) -> Finding:
    """Run the hook as the tus server does, but with a socket where nobody listens."""
    with tempfile.TemporaryDirectory(prefix="dropoffd-check-") as place:
        nobody = shlex.quote(f"{place}/nobody.sock")
        tried = Path(place) / "pre-create"
        tried.write_text(
            re.sub(r"(?m)^socket=.*$", lambda _: f"socket={nobody}", text, count=1),
            encoding="utf-8",
        )
        event = msgspec.json.encode(_EVENTS[server]).decode()
        try:
            # /bin/sh as the hook's first line has it: the place may be mounted noexec.
            done = subprocess.run(  # noqa: S603 - the installed hook is what is to be tried
                ["/bin/sh", str(tried), *([event] if server == "rustus" else [])],
                input="" if server == "rustus" else event,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return error("hooks", f"{hook} hangs while no daemon answers", again, "pre-create")
    if _refuses(server, done):
        return ok("hooks", "refuses while no daemon answers", "pre-create")
    return error(
        "hooks", f"{hook} lets uploads through while no daemon answers", again, "pre-create"
    )


def _refuses(server: str, done: subprocess.CompletedProcess[str]) -> bool:
    if server != "tusd":
        return done.returncode != 0
    try:
        answer = msgspec.json.decode(done.stdout)
        return (
            done.returncode == 0
            and answer["RejectUpload"] is True
            and answer["HTTPResponse"]["StatusCode"] == _UNAVAILABLE
            and "Retry-After" in answer["HTTPResponse"]["Header"]
        )
    except (msgspec.DecodeError, KeyError, TypeError):
        return False


def _setting(text: str, name: str) -> str | None:
    """The value of ``name=value`` in a hook; None where it has none."""
    found = re.search(rf"(?m)^{name}=(.*)$", text)
    if found is None:
        return None
    try:
        return " ".join(shlex.split(found[1]))
    except ValueError:
        return None
