"""What threads decode is worked out before there are any.

msgspec works a type out at its first use. A second thread that uses it before that is over gets it
half done, and the process ends with SIGSEGV: a daemon with much to do did so at its start.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys

from daemon.intake.amqp_messages import parse_message
from daemon.intake.events import parse_event
from daemon.intake.info import parse
from daemon.journal.wrapping import join_destination
from daemon.settings import Amqp
from pipeline.errors import DropoffError

late = []


def watch(frame, event, _):
    if event == "call" and frame.f_code.co_name == "get_class_annotations":
        late.append(frame.f_locals["obj"])


def use():
    {use}


sys.setprofile(watch)
try:
    use()
except DropoffError:
    pass  # its shape was known; that is all
sys.setprofile(None)
sys.exit(f"worked out late: {{late}}" if late else 0)
"""
AMQP = 'Amqp(host="", port=1, user="", password="")'


@pytest.mark.parametrize(
    "use",
    [
        'join_destination(\'{"name": "a", "type": "directory"}\', b"{}")',
        'parse(b\'{"ID": "a"}\', "a")',
        'parse(b\'{"id": "a", "length": 1}\', "a")',
        'parse(b\'{"defer_length": true}\', "a")',
        'parse_event(b\'{"Type": "post-finish", "Event": {}}\', None)',
        'parse_event(b\'{"Upload": {}}\', "post-finish")',
        'parse_event(b\'{"upload": {}}\', "post-finish")',
        f"parse_message(b'[[{{}}], {{}}, {{}}]', '', {{}}, {AMQP})",
    ],
)
def test_no_type_is_worked_out_where_threads_may_do_so_at_once(use: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(use=use)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
