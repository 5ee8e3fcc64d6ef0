"""Uploads by each tus server with each kind of hooks, behind nginx and direct (tests/matrix.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests import matrix
from tests.peers.openers import decrypted
from tests.peers.oracle import Sent, check_reports
from tests.peers.servers import NAMES, OTHER, SETUPS, Setup, Site, site
from tests.peers.visit import PIECE, SIZES, UNKNOWN, Answer, Visit, ask, visit

WAYS = ("nginx", "direct")
WORDS = f"Study {UNKNOWN} is not known here."
LATER = "try again later"
TOLD = {"post-finish", "post-terminate"}
"""The hooks that all servers call, whatever else they call."""

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Visited:
    """A site after its visitors went, the daemon stopped, and others came in vain."""

    setup: Setup
    options: str
    asks: bool
    """Whether the tus server waits for the daemon's word before it makes an upload."""
    visits: Mapping[str, Visit]
    away: Mapping[str, Answer]
    """What those were told who came when the daemon was gone."""
    drops: list[dict[str, Any]]
    held: dict[str, tuple[int, str]]
    """Size and SHA-256 of what the objects in the store decrypt to."""
    metrics: list[dict[str, Any]]
    states: dict[str, int]
    infos: list[dict[str, Any]]
    """What was left in the upload directory when the daemon stopped."""
    failed_hooks: list[str]
    """Names in the spool's ``failed/``."""
    exit_code: int


@dataclass(frozen=True)
class Cell:
    """What was visited, on one way, and what is written into the matrix of it."""

    visited: Visited
    way: str
    seen: dict[str, str]

    @property
    def visit(self) -> Visit:
        return self.visited.visits[self.way]

    @property
    def asks(self) -> bool:
        """Whether the tus server waits for the daemon's word before it makes an upload."""
        return self.visited.asks

    def drop(self, tus_id: str) -> dict[str, Any]:
        """What the REST API was told of an upload."""
        (found,) = (
            drop
            for drop in self.visited.drops
            if any(report["tus_id"] == tus_id for report in drop["reports"])
        )
        return found

    def check_arrived(self, sent: Sent) -> None:
        """It was reported in order, and is once in the store, where it decrypts to what it was."""
        receipt = check_reports(sent, self.drop(sent.tus_id)["reports"])
        (name,) = (name for name in self.visited.held if receipt["upload"] in name)
        assert name.startswith(f"{sent.study}/")
        assert self.visited.held[name] == (sent.size, sent.sha256)
        (delivery,) = receipt["deliveries"]
        assert delivery["destination"] == "local"
        assert unquote(delivery["uri"]).endswith(name)


@pytest.fixture(scope="module")
def seen() -> dict[tuple[Setup, str], matrix.Cell]:
    """What this run saw, for the matrix."""
    return {}


@pytest.fixture(scope="module", params=SETUPS, ids=str)
def visited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Visited:
    with site(tmp_path_factory.mktemp("site"), request.param) as running:
        return asyncio.run(visited_by_all(running))


@pytest.fixture(params=WAYS)
def cell(
    visited: Visited,
    request: pytest.FixtureRequest,
    seen: dict[tuple[Setup, str], matrix.Cell],
) -> Cell:
    setup = visited.setup
    hooks = f"{setup.hooks}, `study_ids`" if setup.study_ids else setup.hooks
    empty = matrix.Cell(NAMES[setup.server], hooks, visited.options, request.param, {})
    kept = seen.setdefault((setup, request.param), empty)
    return Cell(visited, request.param, kept.seen)


async def visited_by_all(running: Site) -> Visited:
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(visit(running, way)) for name, way in running.ways.items()}
    visits = {name: task.result() for name, task in tasks.items()}
    count = sum(len(each.sent) for each in visits.values())
    failing = 0 if running.asks else len(visits)

    def over() -> bool:
        counts = running.counts()
        return counts["done"] >= count and counts["failed"] >= failing and hooks_came(running)

    await asyncio.to_thread(running.daemon.wait_for, over, 30, "all are done")
    states, infos = running.counts(), left(running.infos)
    exit_code = await asyncio.to_thread(running.daemon.stop)
    async with asyncio.TaskGroup() as group:
        asked = {name: group.create_task(ask(w.url, w.claimed)) for name, w in running.ways.items()}
    return Visited(
        running.setup,
        running.options,
        running.asks,
        visits,
        {name: task.result() for name, task in asked.items()},
        running.api.drops(),
        held(running),
        running.daemon.metrics,
        states,
        infos,
        [path.name for path in (running.daemon.spool / "failed").iterdir()],
        exit_code,
    )


def hooks_came(running: Site) -> bool:
    """Whether the daemon took all hooks that it found, and those that come last."""
    if [*(running.daemon.spool / "new").iterdir()]:
        return False
    came = {line["hook"] for line in running.daemon.metrics if line["event"] == "hook"}
    return not running.options or came >= TOLD


def held(running: Site) -> dict[str, tuple[int, str]]:
    found = {}
    for name in running.store.names():
        with running.store.open(name) as source:
            found[name] = decrypted(source, running.secret_key)
    return found


def left(infos: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in infos.rglob("*.info")]


# What arrives --------------------------------------------------------------------------------


def test_uploads_of_any_size_and_name_arrive_whole(cell: Cell) -> None:
    assert [sent.size for sent in cell.visit.whole] == list(SIZES)
    for sent in cell.visit.whole:
        cell.check_arrived(sent)
    cell.seen["whole"] = matrix.YES


def test_one_that_broke_off_arrives_once_it_is_resumed(cell: Cell) -> None:
    cell.check_arrived(cell.visit.resumed)
    cell.seen["resumed"] = matrix.YES


def test_one_whose_length_is_told_at_last_arrives(cell: Cell) -> None:
    cell.check_arrived(cell.visit.late_length)
    cell.seen["late_length"] = matrix.YES


def test_one_that_is_put_together_of_parts_arrives(cell: Cell) -> None:
    cell.check_arrived(cell.visit.of_parts)
    cell.seen["of_parts"] = matrix.YES


def test_one_that_takes_its_time_is_reported_meanwhile(cell: Cell) -> None:
    slow = cell.visit.slow
    cell.check_arrived(slow.sent)
    assert slow.reported == (PIECE if cell.asks else None)
    # One that nobody asked for is announced when all of it is there.
    states = [report["state"] for report in cell.drop(slow.sent.tus_id)["reports"]]
    assert states[0] == ("receiving" if cell.asks else "received")
    cell.seen["progress"] = matrix.YES if slow.reported else "once all of it is there"


def test_one_that_is_taken_back_is_reported_so_and_never_stored(cell: Cell) -> None:
    taken_back = cell.visit.taken_back
    assert (taken_back.known, taken_back.told) == (cell.asks, cell.asks)
    if taken_back.known:
        states = [report["state"] for report in cell.drop(taken_back.tus_id)["reports"]]
        assert (set(states[:-1]), states[-1]) == ({"receiving"}, "terminated")
    cell.seen["taken_back"] = matrix.YES if taken_back.told else "the API never heard of it"


def test_nothing_else_arrives_and_nothing_is_left(visited: Visited) -> None:
    sent = [upload for each in visited.visits.values() for upload in each.sent]
    assert len(visited.held) == len(sent)
    # Each but the parts, and the one that was taken back where anybody heard of it.
    taken_back = [each.slow.sent.study for each in visited.visits.values() if visited.asks]
    announced = [drop["announcement"]["study"] for drop in visited.drops]
    assert sorted(announced) == sorted([each.study for each in sent] + taken_back)
    assert OTHER not in announced
    assert visited.states["failed"] == (0 if visited.asks else len(WAYS))
    kept = [info for info in visited.infos if not info.get("IsPartial", info.get("is_partial"))]
    assert len(kept) == visited.states["failed"], "sources of what was delivered are deleted"
    assert (visited.failed_hooks, visited.exit_code) == ([], 0)


def test_every_hook_is_understood(visited: Visited) -> None:
    hooks = [line for line in visited.metrics if line["event"] == "hook"]
    told = TOLD if visited.options else set()
    asked = {"pre-create"} if visited.asks else set()
    assert {line["hook"] for line in hooks} >= told | asked
    outcomes = {"ok", "accepted", "refused"} if asked else {"ok"} if told else set()
    assert {line["outcome"] for line in hooks} == outcomes


# What doesn't --------------------------------------------------------------------------------


def test_who_names_an_unknown_study_is_told_so_before_anything_is_made(cell: Cell) -> None:
    answer = cell.visit.unknown
    if cell.asks:
        assert answer.location is None
        assert 400 <= answer.status < 500 or WORDS in answer.text
    else:
        assert answer.status == 201, "nobody is asked"
    cell.seen["unknown"] = shown(answer, WORDS)


def test_nothing_gets_through_while_the_daemon_is_away(cell: Cell) -> None:
    answer = cell.visited.away[cell.way]
    assert (answer.location is None) is cell.asks
    assert not cell.asks or answer.status >= 400
    cell.seen["away"] = shown(answer, LATER)


def shown(answer: Answer, words: str) -> str:
    """An answer in the matrix: status, whether our words are in it, when to come again."""
    if answer.location is not None:
        return "no refusal"
    said = str(answer.status)
    said += ", our words" if words in answer.text else ", the server's words"
    return f"{said}, `Retry-After`" if answer.retry_after else said


# Where it is ---------------------------------------------------------------------------------


def test_the_study_is_the_urls_and_so_is_the_location(cell: Cell) -> None:
    if cell.way == "nginx":
        location = cell.visit.slow.location
        assert f"/uploads/{cell.visit.slow.sent.study}/" in location
        assert OTHER not in location
        cell.seen["url"] = matrix.YES
    # What clients called their study was another's there, which got nothing.
    assert {drop["announcement"]["study"] for drop in cell.visited.drops}.isdisjoint({OTHER})


def test_the_study_is_in_the_id_where_it_is_to_be(cell: Cell) -> None:
    for sent in cell.visit.sent:
        assert sent.tus_id.startswith(f"{sent.study}/") is cell.visited.setup.study_ids
    cell.seen["study_in_id"] = "yes" if cell.visited.setup.study_ids else "no"


def test_another_studys_url_reaches_an_upload_only_where_ids_are_flat(cell: Cell) -> None:
    foreign = cell.visit.slow.foreign
    if cell.way == "nginx":
        assert (foreign == 404) is cell.visited.setup.study_ids
        cell.seen["foreign"] = "out of reach" if foreign == 404 else "in reach of who knows the id"
    else:
        assert foreign is None


# The readme ----------------------------------------------------------------------------------


def test_the_readmes_matrix_says_what_was_seen(
    request: pytest.FixtureRequest, seen: dict[tuple[Setup, str], matrix.Cell]
) -> None:
    """What a run saw is kept for `python -m tests.matrix`, which writes it into the README."""
    order = [(setup, way) for setup in SETUPS for way in WAYS]
    if missing := [f"{setup} {way}" for setup, way in order if (setup, way) not in seen]:
        pytest.skip(f"this run has not seen all: {missing[0]} …")
    cells = [seen[each] for each in order]
    directory = Path(request.config.cache.mkdir("server-matrix"))
    for old in directory.glob("*.json"):
        old.unlink()
    for number, each in enumerate(cells):
        matrix.keep(directory, number, each)
    assert matrix.kept(directory) == cells
    readme = matrix.README.read_text()
    assert readme == matrix.spliced(readme, matrix.rendered(cells)), "run `python -m tests.matrix`"
