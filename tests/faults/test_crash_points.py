"""Every named step, and death at it: what comes after the restart is whole all the same.

A walk first lets a daemon do its work undisturbed and lists the steps that it reached. Then each
step gets a daemon of its own, which is killed there, started again, and held against the oracle.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from daemon.journal.sqlite import SqliteJournal
from pipeline import crashpoints
from tests.peers import announcements
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, answer
from tests.peers.reference_api import ReferenceServer
from tests.peers.scene import Recipient, Scene
from tests.peers.seaweedfs import Weed
from tests.peers.stores import Bucket, Folder, Store
from tests.peers.traces import spooled
from tests.peers.tusd_files import pre_create
from tests.peers.verdicts import Verdict

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1500)]

KIB, MIB = 1024, 1024**2
SMALL, LARGE = 100 * KIB, 8 * MIB + 1
"""One that goes out in a single request, and one in two parts."""
GROWING, THERE = 11 * MIB, 6 * MIB
"""One in three parts, of which the first goes out while the rest is still on its way."""
AT_ONCE = 3
BUCKET = "crash"
PIPELINE = '[pipeline]\nworkers = 1\npart_size = "5MiB"\nfollow_after = "5MiB"\n'

READS = {
    f"journal.{name}"
    for name in (
        "abandoned",
        "askings",
        "counts",
        "incomplete",
        "known_among",
        "standing",
        "uploads",
        "work_page",
        "deliveries",
        "due_reports",
        "envelope",
        "forsaken_partials",
        "next_report_at",
        "parts",
        "receipt",
        "report_counts",
        "unneeded_partials",
        "upload",
    )
} | {"sources.open", "api.aclose", "destination.aclose", "journal.aclose"}
"""They change nothing: to die at one is to die after the step before it; or to die at the end."""


NAMES = {SMALL: "small", LARGE: "large", GROWING: "growing"}


@dataclass(frozen=True)
class Variant:
    """What is walked through."""

    destinations: tuple[str, ...]
    sizes: tuple[int, ...]
    api_away: bool = False
    """Whether it takes no reports until after the death."""

    @property
    def grows(self) -> bool:
        """Whether its rest comes once the first part is out, or the daemon dead."""
        return GROWING in self.sizes

    def __str__(self) -> str:
        sizes = "+".join(NAMES[size] for size in self.sizes)
        away = "-away" if self.api_away else ""
        return f"{'+'.join(self.destinations)}-{sizes}{away}"


@dataclass(frozen=True)
class Walked:
    """What a walk came to; walks add up."""

    points: int = 0
    deaths: int = 0
    restarts: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    def __add__(self, other: Walked) -> Walked:
        return Walked(
            self.points + other.points,
            self.deaths + other.deaths,
            self.restarts + other.restarts,
            self.verdict + other.verdict,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        return (
            f"{self.points} points walked, {self.deaths} deaths, {self.restarts} restarts,"
            f" {self.verdict}, in {self.seconds:.0f} s"
        )


ONCE = Variant(("folder0", "bucket0"), (SMALL, LARGE))
FOLLOWED = Variant(("folder0", "bucket0"), (GROWING,))
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
    for size in (SMALL, LARGE, GROWING)
    for api_away in (False, True)
]


class Stage:
    """What all scenes share: the store, and the REST API with one study for each variant."""

    def __init__(self, directory: Path, weed: Weed) -> None:
        self._directory = directory
        self._weed = weed
        self._recipient = Recipient(directory)
        self._lock = threading.Lock()
        self.walked = Walked()
        """All in all."""
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
        scene.lay(*variant.sizes, told=not variant.grows)
        if variant.grows:
            scene.hold_back(THERE)
        return scene

    def steps(self, variant: Variant, api_url: str) -> list[str]:
        """Each step that an undisturbed daemon reaches, as often as it does, in order.

        It finds the REST API at ``api_url``.
        """
        scene = self.scene(variant)
        trace = scene.directory / "trace"
        with scene.daemon(api_url, **{crashpoints.TRACE: str(trace)}) as daemon:
            if variant.grows:
                daemon.wait_for(lambda: _is_followed(trace, variant), 60, "it is followed")
                scene.let_come()
            daemon.wait_for(lambda: _has_gone_far(daemon, variant), 60, "it has done all it can")
            daemon.wait_for(lambda: not spooled(daemon), 30, "the spool is empty")
            assert daemon.stop() == 0
        self._finish(scene)
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
        trace = scene.directory / "trace"
        environment = {
            crashpoints.AT: step,
            crashpoints.MARK: str(mark),
            crashpoints.TRACE: str(trace),
        }
        daemon = scene.daemon(api_url, **environment)
        with contextlib.ExitStack() as stack:
            daemon.start(wait=False)
            stack.push(daemon)
            deadline = time.monotonic() + 60
            while not mark.exists() and not _has_gone_far(daemon, variant):
                assert time.monotonic() < deadline, f"{step} is not reached: {daemon.tail()}"
                if _is_followed(trace, variant):
                    scene.let_come()
                time.sleep(0.05)
            scene.let_come()
            died = mark.exists()
            if died and " destination." not in step:
                daemon.wait()
            else:
                daemon.wait_for(lambda: daemon.status() is not None, 30, "it outlives a worker")
                assert daemon.stop() == 0
        self._finish(scene)
        shutil.rmtree(scene.directory)
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

    def _finish(self, scene: Scene) -> None:
        """Start it again, let it end its work, and hold everything against the oracle."""
        with scene.daemon(self.api.api.url) as daemon:
            daemon.wait_until_over(len(scene.sent), 90)
            daemon.wait_for(lambda: not spooled(daemon), 30, "the spool is empty")
            scene.watch(daemon)
            assert daemon.stop() == 0
        verdict = scene.judge(daemon, self.api)
        with self._lock:
            self.walked += Walked(restarts=1, verdict=verdict)
        verdict.hold()


def _has_gone_far(daemon: Dropoffd, variant: Variant) -> bool:
    """Whether there is nothing left that it could do."""
    status = daemon.status()
    ended = ("stored", "done") if variant.api_away else ("done",)
    return status is not None and sum(status["uploads"][state] for state in ended) == len(
        variant.sizes
    )


def _is_followed(trace: Path, variant: Variant) -> bool:
    """Whether each destination has the first part."""
    reached = trace.read_text().splitlines() if trace.exists() else []
    return reached.count("after journal.part_stored") >= len(variant.destinations)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("crash")
    with Weed(directory / "weed") as weed:
        weed.make_bucket(BUCKET)
        stage = Stage(directory, weed)
        with stage.api:
            yield stage
            assert [drop["id"] for drop in stage.api.drops() if not drop["reports"]] == []
            print(f"all walks: {stage.walked}")  # noqa: T201 -- the suite tells it


async def walk(stage: Stage, variant: Variant, *, once: bool = False) -> Walked:
    """Die at each step that there is, with ``once`` only when it is reached first; print it."""
    began = time.monotonic()
    async with FaultyHttp(stage.api.api.url) as proxy:
        if variant.api_away:
            proxy.spoil(_is_report, answer(503), times=1_000_000)
        steps = await asyncio.to_thread(stage.steps, variant, proxy.url)
        steps = [step for step in steps if not once or step.endswith("#1")]
        before, stage.walked = stage.walked, Walked()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            loop = asyncio.get_running_loop()
            deaths = await asyncio.gather(
                *(
                    loop.run_in_executor(pool, stage.die, variant, step, proxy.url)
                    for step in steps
                ),
                return_exceptions=True,
            )
    seconds = time.monotonic() - began
    walked = stage.walked + Walked(len(steps), deaths.count(True), seconds=seconds)
    stage.walked = before + walked
    print(f"{variant}: {walked}")  # noqa: T201 -- the suite tells it
    wrong = {
        step: death
        for step, death in zip(steps, deaths, strict=True)
        if isinstance(death, BaseException)
    }
    assert not wrong, "\n\n".join(f"{step}: {error!r}" for step, error in wrong.items())
    return walked


def _is_report(request: web.BaseRequest) -> bool:
    return request.path.endswith("/reports/")


async def test_each_step_of_a_small_and_a_large_upload_to_two_destinations(stage: Stage) -> None:
    walked = await walk(stage, ONCE, once=True)
    assert walked.deaths >= 0.9 * walked.points


async def test_each_step_of_an_upload_that_is_delivered_while_it_arrives(stage: Stage) -> None:
    walked = await walk(stage, FOLLOWED, once=True)
    assert walked.deaths >= 0.9 * walked.points


def test_each_step_of_pre_create_leaves_no_announcement_that_nobody_ends(stage: Stage) -> None:
    methods = ("journal.add_asking", "api.announce", "journal.add_announcement")
    steps = [f"{when} {what}" for what in (*methods, "journal.forget_asking") for when in WHEN]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(stage.die_asked, steps):
            pass


@pytest.mark.long
@pytest.mark.parametrize("variant", ALL, ids=str)
async def test_each_step_of_every_variant(stage: Stage, variant: Variant) -> None:
    assert (await walk(stage, variant)).deaths


def test_what_is_not_walked_still_exists() -> None:
    methods = [name.removeprefix("journal.") for name in READS if name.startswith("journal.")]
    assert [name for name in methods if not hasattr(SqliteJournal, name)] == []
