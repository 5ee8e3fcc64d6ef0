"""Whatever is seen, told and repeated in whatever order: one row each, and never back."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemon.errors import ConflictError
from daemon.journal.model import OVER, TRANSITIONS, Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from tests.peers.journals import (
    DIRECTORY,
    ERROR,
    RECEIPT,
    acknowledge_all,
    announcement,
    envelope,
    identity,
    left_to_do,
    sighting,
)

TUS_IDS = st.sampled_from(["t1", "t2", "t3"])
INODES = st.sampled_from([7, 8])
RANK = {
    UploadState.RECEIVING: 0,
    UploadState.RECEIVED: 1,
    UploadState.PROCESSING: 2,
    UploadState.STORED: 3,
}


class Sightings(RuleBasedStateMachine):
    """Drives a journal through hints, scans, restarts and the steps of processing."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._directory = tempfile.TemporaryDirectory()
        self._journal = self._open()
        self._now = 100.0
        self._seen: dict[str, Upload] = {}
        self._sequences: dict[str, int] = {}

    def _open(self) -> SqliteJournal:
        return self._runner.run(SqliteJournal.open(Path(self._directory.name)))

    def teardown(self) -> None:
        self._runner.run(self._journal.aclose())
        self._runner.close()
        self._directory.cleanup()

    @rule(tus_id=TUS_IDS, received=st.sampled_from([0, 10, 500, 1000]), inode=INODES)
    def sight(self, tus_id: str, received: int, inode: int) -> None:
        self._now += 3.0
        before = self._newest(tus_id)
        seen = sighting(tus_id, received, identity=identity(received, inode))
        upload = self._runner.run(self._journal.sight(seen, self._now))
        assert upload.tus_id == tus_id
        if before is None:
            assert upload.generation == 1
        elif upload.id != before.id:
            assert before.state in OVER
            assert upload.generation == before.generation + 1
        elif before.state is not UploadState.RECEIVING:
            assert upload.state is before.state
        if received == 1000 and upload.id not in self._seen:
            assert upload.state is UploadState.RECEIVED

    @rule(name=st.sampled_from(["a1", "a2", "a3", "a4"]), tus_id=st.none() | TUS_IDS)
    def announce(self, name: str, tus_id: str | None) -> None:
        self._runner.run(self._journal.add_announcement(announcement(name, tus_id=tus_id)))

    @rule(tus_id=TUS_IDS)
    def terminate(self, tus_id: str) -> None:
        self._runner.run(self._journal.terminate(DIRECTORY, tus_id, self._now))

    @rule(tus_id=TUS_IDS, step=st.sampled_from(["plan", "stored", "done", "over", "fail", "retry"]))
    def process(self, tus_id: str, step: str) -> None:
        upload = self._newest(tus_id)
        if upload is None:
            return
        try:
            self._runner.run(self._step(upload.id, step))
        except ConflictError:
            assert self._newest(tus_id) == upload

    async def _step(self, upload: str, step: str) -> None:
        match step:
            case "plan":
                await self._journal.plan(upload, envelope(), [], identity(), self._now)
            case "stored":
                await self._journal.stored(upload, RECEIPT, self._now)
            case "done":
                await self._journal.done(upload, self._now)
            case "over":
                await self._journal.start_over(upload, self._now)
            case "fail":
                await self._journal.fail(upload, ERROR, self._now)
            case _:
                await self._journal.retry(upload, self._now)

    @rule(tus_id=TUS_IDS)
    def take_by_the_broker(self, tus_id: str) -> None:
        upload = self._newest(tus_id)
        if upload is not None and not upload.announced:
            self._runner.run(self._journal.announced(upload.id, f"api-{upload.id}"))

    @rule()
    def report(self) -> None:
        for report in self._runner.run(acknowledge_all(self._journal)):
            last = self._sequences.get(report.upload, 0)
            assert report.sequence == last + 1, "in order, and none missing"
            assert report.body["report"] == report.id
            self._sequences[report.upload] = report.sequence

    @rule()
    def restart(self) -> None:
        self._runner.run(self._journal.aclose())
        self._journal = self._open()

    @invariant()
    def every_change_is_a_way_along_the_transitions(self) -> None:
        uploads = {upload.id: upload for upload in self._all()}
        assert self._seen.keys() <= uploads.keys(), "no row is ever lost"
        for upload in uploads.values():
            before = self._seen.get(upload.id)
            if before is not None and before.state is not upload.state:
                assert upload.state in TRANSITIONS[before.state]
        self._seen = uploads

    @invariant()
    def one_row_stands_for_each_generation(self) -> None:
        keys = [(upload.tus_id, upload.generation) for upload in self._seen.values()]
        assert len(keys) == len(set(keys))
        for tus_id in {tus_id for tus_id, _ in keys}:
            live = [
                upload
                for upload in self._seen.values()
                if upload.tus_id == tus_id and upload.state not in OVER
            ]
            assert len(live) <= 1

    @invariant()
    def work_is_exactly_what_is_left_to_do(self) -> None:
        left = {
            upload.id
            for upload in self._all()
            if RANK.get(upload.state, 0) > 0
            or (upload.state is UploadState.FAILED and not upload.announced)
        }
        assert {work.upload for work in self._runner.run(left_to_do(self._journal))} == left

    def _all(self) -> list[Upload]:
        return list(self._runner.run(self._journal.uploads(None, None, 1000)))

    def _newest(self, tus_id: str) -> Upload | None:
        found = [upload for upload in self._all() if upload.tus_id == tus_id]
        return max(found, key=lambda upload: upload.generation, default=None)


TestSightings = Sightings.TestCase
TestSightings.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
