"""SIGHUP: studies and destinations are taken from the file again, without a restart."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

from tests.peers.dropoffd import Dropoffd
from tests.peers.tusd_files import lay_info

DESTINATION = '[destinations.local]\ntype = "directory"\ndirectory = "{directory}/store"\n'
STUDY = '[studies."%s"]\nencrypt = "none"\ndestinations = ["local"]\n'


def lay(daemon: Dropoffd, study: str) -> None:
    """An upload of ten bytes, as tusd leaves it."""
    name = uuid.uuid4().hex
    (daemon.uploads / name).write_bytes(os.urandom(10))
    lay_info(daemon.uploads / name, 10, {"study": study})


def test_a_study_that_was_added_is_served_after_a_reload(tmp_path: Path) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    (tmp_path / "store").mkdir()
    with Dropoffd(tmp_path, DESTINATION + STUDY % first) as daemon:
        with daemon.config.open("a") as config:
            config.write(STUDY % second)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda: '"reloaded"' in daemon.tail(), 10, "it reloads")
        lay(daemon, second)
        daemon.wait_until_over(1, 20)
        assert [upload["state"] for upload in daemon.listed()] == ["done"]
        assert daemon.stop() == 0


def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path) -> None:
    study = str(uuid.uuid4())
    (tmp_path / "store").mkdir()
    with Dropoffd(tmp_path, DESTINATION + STUDY % study) as daemon:
        good = daemon.config.read_text()
        daemon.config.write_text(good + "[uploadz]\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda: '"reload_refused"' in daemon.tail(), 10, "it refuses")
        daemon.config.write_text(good)
        lay(daemon, study)
        daemon.wait_until_over(1, 20)
        assert [upload["state"] for upload in daemon.listed()] == ["done"]
