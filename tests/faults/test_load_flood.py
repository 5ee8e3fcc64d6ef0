"""One study sends thousands of uploads at once: those of the others take little longer for that.

The full size, with its figures: `pytest -m long -s tests/faults/test_load_flood.py`.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.peers.dropoffd import Dropoffd
from tests.peers.load import folder, lay, named, shown, stored_in, studies, study_named
from tests.peers.openers import Clear
from tests.peers.oracle import Evidence, Sent, judge
from tests.peers.stores import Folder

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]

FLOODING = study_named(0)


class World:
    """A daemon with many studies, all of which deliver to one place."""

    def __init__(self, directory: Path, count: int) -> None:
        config = folder("local", "store") + studies(count, ["local"])
        self.daemon = Dropoffd(directory, config)
        self._studies = [study_named(number) for number in range(1, count)]
        self._store = directory / "store"
        self._store.mkdir()
        self._sent: list[Sent] = []

    def flood(self, count: int) -> None:
        """So many uploads of the one study, at once."""
        self._sent += lay(self.daemon.uploads, named("flood", count), FLOODING)

    def trickle(self, prefix: str, seconds: float) -> list[float]:
        """One upload of each other study within so many seconds; how long each took."""
        began = time.monotonic()
        laid: dict[str, float] = {}
        for number, (study, name) in enumerate(
            zip(self._studies, named(prefix, len(self._studies)), strict=True)
        ):
            due = began + seconds * number / len(self._studies)
            time.sleep(max(0.0, due - time.monotonic()))
            self._sent += lay(self.daemon.uploads, [name], study)
            laid[name] = time.time()
        files = {f"{name}.txt" for name in laid}
        self.daemon.wait_for(lambda: files <= stored_in(self._store), 600, f"{prefix}s are stored")
        paths = {path.stem: path for path in self._store.rglob(f"{prefix}-*.txt")}
        # The change time is when it was given its name.
        return [paths[name].stat().st_ctime - at for name, at in laid.items()]

    def of_the_flood(self) -> int:
        """Uploads of the flood that are stored."""
        return sum(name.startswith("flood") for name in stored_in(self._store))

    def end(self) -> None:
        """Wait for all that is left, end the daemon, and hold it all against the oracle."""
        self.daemon.wait_until_over(len(self._sent), 600)
        assert self.daemon.stop() == 0
        stores = {"local": Folder(self._store)}
        judge(Evidence(self.daemon, self._sent, None, stores, Clear())).hold()


@pytest.mark.parametrize(
    ("count", "flood", "seconds", "most"),
    [
        pytest.param(60, 800, 5.0, 10.0, id="60 studies"),
        pytest.param(1000, 5000, 50.0, 4.0, id="1000 studies", marks=pytest.mark.long),
    ],
)
def test_the_uploads_of_other_studies_take_little_longer_while_one_study_floods(
    tmp_path: Path, count: int, flood: int, seconds: float, most: float
) -> None:
    world = World(tmp_path, count)
    with world.daemon:
        world.trickle("warm", 2.0)
        without = statistics.median(world.trickle("calm", seconds))
        world.flood(flood)
        took = world.trickle("amid", seconds)
        stored = world.of_the_flood()
        amid = statistics.median(took)
        world.end()
    shown(
        f"{count} studies, median from .info to stored: {without * 1000:.0f} ms; while one sends "
        f"{flood} at once, {stored} of which were stored by then: {amid * 1000:.0f} ms "
        f"({amid / without:.1f} times), longest {max(took) * 1000:.0f} ms"
    )
    assert amid < most * without
    # Who waited behind the flood would have waited for all of it.
    assert max(took) < 20
