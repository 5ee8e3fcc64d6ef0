"""Every named step, and death at it: what comes after the restart is whole all the same.

A walk first lets a daemon do its work undisturbed and lists the steps that it reached. Then each
step gets a daemon of its own, which is killed there, started again, and held against the oracle.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from pipeline import crashpoints
from tests.peers import announcements
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, answer
from tests.peers.oracle import Bucket, Folder, Store
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.seaweedfs import Weed
from tests.peers.tusd_files import pre_create

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1500)]

KIB, MIB = 1024, 1024**2
SMALL, LARGE = 100 * KIB, 8 * MIB + 1
"""One that goes out in a single request, and one in two parts."""
AT_ONCE = 3
BUCKET = "crash"
PIPELINE = '[pipeline]\nworkers = 1\npart_size = "5MiB"\n'

READS = {
    f"journal.{name}"
    for name in (
        "abandoned",
        "askings",
        "counts",
        "deliveries",
        "due_reports",
        "envelope",
        "forsaken_partials",
        "known",
        "next_report_at",
        "parts",
        "receipt",
        "report_counts",
        "reported",
        "unneeded_partials",
        "upload",
        "work",
    )
} | {"sources.open", "api.aclose", "destination.aclose", "journal.aclose"}
"""They change nothing: to die at one is to die after the step before it; or to die at the end."""


@dataclass(frozen=True)
class Variant:
    """What is walked through."""

    destinations: tuple[str, ...]
    sizes: tuple[int, ...]
    api_away: bool = False
    """Whether it takes no reports until after the death."""

    def __str__(self) -> str:
        sizes = "+".join("large" if size == LARGE else "small" for size in self.sizes)
        away = "-away" if self.api_away else ""
        return f"{'+'.join(self.destinations)}-{sizes}{away}"


ONCE = Variant(("folder0", "bucket0"), (SMALL, LARGE))
ASKED = Variant(("folder0",), ())
"""Nothing but pre-create."""
WHEN = ("before", "after")
ALL = [
    Variant(destinations, (size,), api_away)
    for destinations in (
        ("folder0",),
        ("bucket0",),
        ("folder0", "bucket0"),
        ("folder0", "folder1", "bucket0"),
    )
    for size in (SMALL, LARGE)
    for api_away in (False, True)
]


class Stage:
    """What all scenes share: the store, and the REST API with one study for each variant."""

    def __init__(self, directory: Path, weed: Weed) -> None:
        self._directory = directory
        self._weed = weed
        self._recipient = Recipient(directory)
        self._studies = {variant: str(uuid.uuid4()) for variant in (ONCE, ASKED, *ALL)}
        names = [f"folder{number}" for number in range(3)]
        tables = [
            f'[destinations.{name}]\ntype = "directory"\ndirectory = "/x"\n' for name in names
        ]
        tables.append('[destinations.bucket0]\ntype = "s3"\nbucket = "x"\nregion = "us-east-1"\n')
        tables += [
            self._recipient.study(study, variant.destinations)
            for variant, study in self._studies.items()
        ]
        (directory / "api").mkdir()
        self.api = ReferenceServer(directory / "api", "".join(tables), path="/")

    def scene(self, variant: Variant) -> Scene:
        """A world for one daemon."""
        place = self._directory / uuid.uuid4().hex[:12]
        stores: dict[str, Store] = {}
        tables = [PIPELINE]
        secrets: dict[str, str] = {}
        for name in variant.destinations:
            if name == "bucket0":
                # Not a bucket for each: this store has room for a few dozen of them only.
                stores[name] = Bucket(self._weed, BUCKET, f"{place.name}/")
                tables.append(
                    f'[destinations.{name}]\ntype = "s3"\nendpoint = "{self._weed.endpoint}"\n'
                    f'bucket = "{BUCKET}"\nregion = "us-east-1"\n'
                    f'path = "{place.name}/{{upload}}/{{filename}}"\n'
                )
                secrets["DROPOFF_BUCKET0_ACCESS_KEY"] = self._weed.access_key
                secrets["DROPOFF_BUCKET0_SECRET_KEY"] = self._weed.secret_key
            else:
                folder = place / name
                folder.mkdir(parents=True)
                stores[name] = Folder(folder)
                tables.append(
                    f'[destinations.{name}]\ntype = "directory"\ndirectory = "{folder}"\n'
                )
        study = self._studies[variant]
        scene = Scene(place, study, self._recipient, stores, "".join(tables), secrets)
        scene.lay(*variant.sizes)
        return scene

    def steps(self, variant: Variant) -> list[str]:
        """Each step that an undisturbed daemon reaches, as often as it does, in order."""
        scene = self.scene(variant)
        trace = scene.directory / "trace"
        self._finish(scene, **{crashpoints.TRACE: str(trace)})
        counted: Counter[str] = Counter()
        steps = []
        for step in trace.read_text().splitlines():
            counted[step] += 1
            if step.partition(" ")[2] not in READS:
                steps.append(f"{step}#{counted[step]}")
        return steps

    def die(self, variant: Variant, step: str, api_url: str) -> bool:
        """Have a daemon die at ``step``, and check what the next one makes of it.

        ``api_url`` is where the first one looks for the REST API. False where the step wasn't
        reached this time.
        """
        scene = self.scene(variant)
        mark = scene.directory / "died"
        daemon = scene.daemon(api_url, **{crashpoints.AT: step, crashpoints.MARK: str(mark)})
        with contextlib.ExitStack() as stack:
            daemon.start(wait=False)
            stack.push(daemon)
            deadline = time.monotonic() + 60
            while not mark.exists() and not _has_gone_far(daemon, variant):
                assert time.monotonic() < deadline, f"{step} is not reached: {daemon.tail()}"
                time.sleep(0.05)
            died = mark.exists()
            if died and " destination." not in step:
                daemon.wait()
            else:
                daemon.wait_for(lambda: daemon.status() is not None, 30, "it outlives a worker")
                assert daemon.stop() == 0
        self._finish(scene)
        return died

    def die_asked(self, step: str) -> None:
        """Have a daemon die at ``step`` of pre-create; whatever the API took of it is ended."""
        scene = self.scene(ASKED)
        filename = scene.directory.name
        refused = "forget" in step
        metadata = {"filename": filename, "study": self._studies[ASKED]}
        if refused:
            metadata["study"] = str(uuid.uuid4())
        mark = scene.directory / "died"
        environment = {crashpoints.AT: f"{step}#1", crashpoints.MARK: str(mark)}
        with scene.daemon(self.api.api.url, **environment) as daemon:
            with contextlib.suppress(OSError, http.client.HTTPException):
                pre_create(daemon, 1, metadata)
            daemon.wait(30)
        assert mark.exists(), f"{step} is not reached"
        announcements.age(daemon)
        with scene.daemon(self.api.api.url) as daemon:
            daemon.wait_for(lambda: announcements.are_over(daemon), 30, f"{step} is settled")
            assert daemon.stop() == 0
        told = [
            [report["state"] for report in drop["reports"]]
            for drop in self.api.drops()
            if filename in {report["filename"] for report in drop["reports"]}
        ]
        assert told == ([] if refused or step == "before journal.add_asking" else [["terminated"]])

    def _finish(self, scene: Scene, **environment: str) -> None:
        with scene.daemon(self.api.api.url, **environment) as daemon:
            daemon.wait_until_over(len(scene.sent), 90)
            assert daemon.stop() == 0
        scene.check(daemon, self.api)


def _has_gone_far(daemon: Dropoffd, variant: Variant) -> bool:
    """Whether there is nothing left that it could do."""
    status = daemon.status()
    ended = ("stored", "done") if variant.api_away else ("done",)
    return status is not None and sum(status["uploads"][state] for state in ended) == len(
        variant.sizes
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("crash")
    with Weed(directory / "weed") as weed:
        weed.make_bucket(BUCKET)
        stage = Stage(directory, weed)
        with stage.api:
            yield stage
            assert [drop["id"] for drop in stage.api.drops() if not drop["reports"]] == []


async def walk(stage: Stage, variant: Variant, steps: Sequence[str]) -> int:
    """Die at each of ``steps``; how many of them were reached."""
    async with FaultyHttp(stage.api.api.url) as proxy:
        if variant.api_away:
            proxy.spoil(_is_report, answer(503), times=1_000_000)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            loop = asyncio.get_running_loop()
            deaths = await asyncio.gather(
                *(
                    loop.run_in_executor(pool, stage.die, variant, step, proxy.url)
                    for step in steps
                ),
                return_exceptions=True,
            )
    wrong = {
        step: death
        for step, death in zip(steps, deaths, strict=True)
        if isinstance(death, BaseException)
    }
    assert not wrong, "\n\n".join(f"{step}: {error!r}" for step, error in wrong.items())
    return deaths.count(True)


def _is_report(request: web.BaseRequest) -> bool:
    return request.path.endswith("/reports/")


async def test_each_step_of_a_small_and_a_large_upload_to_two_destinations(stage: Stage) -> None:
    steps = await asyncio.to_thread(stage.steps, ONCE)
    first = [step for step in steps if step.endswith("#1")]
    reached = await walk(stage, ONCE, first)
    print(f"{len(first)} steps of {ONCE}, died at {reached}")  # noqa: T201 -- the suite tells it
    assert reached >= 0.9 * len(first)


def test_each_step_of_pre_create_leaves_no_announcement_that_nobody_ends(stage: Stage) -> None:
    methods = ("journal.add_asking", "api.announce", "journal.add_announcement")
    steps = [f"{when} {what}" for what in (*methods, "journal.forget_asking") for when in WHEN]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(stage.die_asked, steps):
            pass


@pytest.mark.long
@pytest.mark.parametrize("variant", ALL, ids=str)
async def test_each_step_of_every_variant(stage: Stage, variant: Variant) -> None:
    steps = await asyncio.to_thread(stage.steps, variant)
    reached = await walk(stage, variant, steps)
    print(f"{len(steps)} steps of {variant}, died at {reached}")  # noqa: T201 -- the suite tells it
    assert reached
