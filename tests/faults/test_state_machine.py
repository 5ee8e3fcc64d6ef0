"""Whatever happens in whatever order: each upload ends as a small model says it has to.

Journal, finder, hooks, conductor and outbox are real; destinations and the REST API are in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import shutil
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from daemon.errors import ApiUnreachableError, ConflictError
from daemon.journal.model import OVER, Upload, UploadState
from tests.peers.openers import decrypted
from tests.peers.oracle import ORDER
from tests.peers.small_world import DESTINATIONS, SECRET_KEY, STUDY, World
from tests.peers.tusd_files import lay_info

LARGE = 8 * 1024 * 1024 + 1
"""Goes out in parts."""
SIZES = st.sampled_from([0, 1, 1000, 70_000, LARGE])
WITHDRAWABLE = {
    UploadState.RECEIVING,
    UploadState.RECEIVED,
    UploadState.PROCESSING,
    UploadState.FAILED,
}


@dataclass
class Expected:
    """What the model knows of one upload."""

    data: bytes
    received: int
    end: str = "done"
    """done, partial, terminated, discarded, or gone before anybody knew of it."""
    metadata: dict[str, str] = field(default_factory=dict)
    taken_back: bool = False
    """Its files were removed by its client."""


class Uploading(RuleBasedStateMachine):
    """Drives a world, and says what must have become of it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.known: dict[str, Expected] = {}
        self.states: dict[str, Upload] = {}
        self.runner.run(self.world.start())

    def teardown(self) -> None:
        self.settle()
        self.runner.run(self.world.journal.aclose())
        self.runner.close()
        shutil.rmtree(self.world.directory)

    # What comes in --------------------------------------------------------------------------

    @initialize(sizes=st.lists(SIZES, min_size=1, max_size=3))
    def some_are_there(self, sizes: list[int]) -> None:
        for size in sizes:
            self.arrive(size, size, whole=True, asked=False)

    @rule(size=SIZES, seed=st.integers(0, 2**16), whole=st.booleans(), asked=st.booleans())
    def arrive(self, size: int, seed: int, whole: bool, asked: bool) -> None:  # noqa: FBT001 -- Hypothesis names them
        data = random.Random(seed).randbytes(size)
        tus_id = f"t{len(self.known)}"
        metadata = {"study": STUDY, "filename": "f.bam"}
        if asked:
            try:
                metadata["dropoff_id"] = self.runner.run(self.world.ask(size, metadata))
            except ApiUnreachableError:
                return
        upload = Expected(data, size if whole else size // 2, metadata=metadata)
        upload.end = "done" if upload.received == size else "partial"
        self.known[tus_id] = upload
        self._write(tus_id, upload)

    @rule(choice=st.integers(0, 99))
    def grow(self, choice: int) -> None:
        tus_id = self._choose(choice, "partial")
        if tus_id is not None:
            upload = self.known[tus_id]
            upload.received, upload.end = len(upload.data), "done"
            with (self.world.uploads / tus_id).open("ab") as file:
                file.write(upload.data[len(upload.data) // 2 :])

    @rule(order=st.lists(st.integers(0, 5), max_size=6))
    def hooks_in_any_order_and_any_number(self, order: list[int]) -> None:
        self.runner.run(self.world.finder.check([f"t{number}" for number in order]))

    @rule()
    def rescan(self) -> None:
        self.runner.run(self.world.finder._scan())

    @rule(choice=st.integers(0, 99))
    def terminate(self, choice: int) -> None:
        tus_id = self._choose(choice, "partial", "done")
        if tus_id is None:
            return
        before = self._newest(tus_id)
        self.known[tus_id].taken_back = True
        for path in (self.world.uploads / tus_id, self.world.uploads / f"{tus_id}.info"):
            path.unlink(missing_ok=True)
        self.runner.run(self.world.finder.terminated(tus_id))
        if before is None:
            self.known[tus_id].end = "gone"
        elif before.state in WITHDRAWABLE:
            self.known[tus_id].end = "terminated"

    @rule(choice=st.integers(0, 99))
    def a_hook_that_tells_of_the_end_of_another(self, choice: int) -> None:
        tus_id = self._choose(choice, "partial", "done")
        if tus_id is not None and (self.world.uploads / tus_id).exists():
            self.runner.run(self.world.finder.terminated(tus_id))

    # What goes wrong ------------------------------------------------------------------------

    @rule()
    def one_is_refused_until_it_has_failed(self) -> None:
        self.world.stores.faults.append("refused")
        self.settle()

    @rule(faults=st.lists(st.sampled_from(["away", "lost", "refused"]), min_size=1, max_size=3))
    def destinations_fail(self, faults: list[str]) -> None:
        self.world.stores.faults.extend(faults)

    @rule(faults=st.lists(st.sampled_from(["away", "lost"]), min_size=1, max_size=3))
    def the_api_fails(self, faults: list[str]) -> None:
        self.world.api.faults.extend(faults)

    @rule(turns=st.integers(0, 25))
    def work_a_little_and_die(self, turns: int) -> None:
        async def die() -> None:
            await self.world.finder._scan()
            async with self.world.running():
                for _ in range(turns):
                    self.world.now += 1.0
                    await asyncio.sleep(0.001)
            await self.world.kill()

        self.runner.run(die())

    @rule()
    def die(self) -> None:
        self.runner.run(self.world.kill())

    @rule(seconds=st.sampled_from([-7200.0, -1.0, 3600.0, 90_000.0]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.world.now += seconds

    # What people do -------------------------------------------------------------------------

    @rule(choice=st.integers(0, 99))
    def retry(self, choice: int) -> None:
        upload = self._failed_one(choice)
        if upload is None:
            return
        self.world.stores.refused.discard(upload.id)
        self.runner.run(self.world.journal.retry(upload.id, self.world.now))

    @rule(choice=st.integers(0, 99))
    def discard(self, choice: int) -> None:
        upload = self._failed_one(choice)
        if upload is None:
            return
        self.runner.run(self.world.journal.discard(upload.id, self.world.now))
        self.known[upload.tus_id].end = "discarded"

    @rule(choice=st.integers(0, 99))
    def what_has_not_failed_is_not_discarded(self, choice: int) -> None:
        others = [each for each in self._all() if each.state is not UploadState.FAILED]
        if others:
            upload = others[choice % len(others)]
            with pytest.raises(ConflictError):
                self.runner.run(self.world.journal.discard(upload.id, self.world.now))

    # What must be ---------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        """All that can be done is done, and is as the model has it."""
        self.runner.run(self.world.settle())
        for tus_id, expected in self.known.items():
            self._check(tus_id, expected)
        stored = {each.id for each in self._all() if each.state is UploadState.DONE}
        unended = {each.id for each in self._all() if each.state is UploadState.FAILED}
        finished = {name.partition("/")[0] for _, name in self.world.stores.objects}
        assert stored <= finished
        assert bool(unended) or not self.world.stores.unfinished, "what was begun is ended"
        self._check_reports()

    @invariant()
    def one_upload_is_one_row(self) -> None:
        uploads = self._all()
        rows = [upload.tus_id for upload in uploads if upload.tus_id]
        assert len(rows) == len(set(rows))
        for upload in uploads:
            before = self.states.get(upload.id)
            if before is not None and before.state in OVER:
                assert upload.state is before.state
        assert self.states.keys() <= {upload.id for upload in uploads}
        self.states = {upload.id: upload for upload in uploads}

    @invariant()
    def no_source_goes_before_it_is_stored_everywhere(self) -> None:
        for tus_id, expected in self.known.items():
            if expected.end != "done" or expected.taken_back:
                continue
            if not (self.world.uploads / tus_id).exists():
                upload = self._newest(tus_id)
                assert upload is not None
                assert upload.state in {UploadState.STORED, UploadState.DONE}
                assert len(self._sealed(upload)) == len(DESTINATIONS)
                reports = self.world.api.reports[upload.api_id or ""]
                assert reports[-1]["state"] == "stored", "nor before the API knows"

    def _check(self, tus_id: str, expected: Expected) -> None:
        upload = self._newest(tus_id)
        state = None if upload is None else upload.state
        match expected.end:
            case "gone":
                assert state is None
            case "partial":
                assert state in {None, UploadState.RECEIVING}
            case "terminated":
                assert state is UploadState.TERMINATED
            case "discarded":
                assert state is UploadState.DISCARDED
            case _:
                assert upload is not None
                self._check_done(upload, expected)

    def _check_done(self, upload: Upload, expected: Expected) -> None:
        source = self.world.uploads / upload.tus_id
        if upload.state is UploadState.FAILED:
            assert upload.id in self.world.stores.refused
            assert upload.error is not None
            assert upload.error.code == "destination_refused"
            assert source.read_bytes() == expected.data
            return
        assert upload.state is UploadState.DONE
        assert not source.exists()
        digest = hashlib.sha256(expected.data).hexdigest()
        assert upload.digest == f"sha256:{digest}"
        for held in self._sealed(upload):
            assert decrypted(io.BytesIO(held), SECRET_KEY) == (len(expected.data), digest)

    def _check_reports(self) -> None:
        rows = {upload.id for upload in self._all()}
        announced = set(self.runner.run(self.world.announced()))
        assert self.world.api.ids.keys() <= rows | announced, "announced, and nobody ends it"
        by_upload: dict[str, str] = {}
        states = {upload.api_id: upload.state for upload in self._all() if upload.api_id}
        for api_id, reports in self.world.api.reports.items():
            sequences = [report["sequence"] for report in reports]
            assert sequences == sorted(set(sequences)), "in order, and none twice"
            told = [report["state"] for report in reports]
            for tus_id in {report["tus_id"] for report in reports} - {None}:
                assert by_upload.setdefault(tus_id, api_id) == api_id, "announced twice"
            if "failed" not in told and told[-1] != "terminated":
                assert told == sorted(told, key=ORDER.index), "no state goes back"
            expected = {UploadState.DONE: "stored", UploadState.DISCARDED: "failed"}
            assert told[-1] == expected.get(states[api_id], states[api_id])
            assert told.count("stored") <= 1

    def _write(self, tus_id: str, upload: Expected) -> None:
        data = self.world.uploads / tus_id
        data.write_bytes(upload.data[: upload.received])
        lay_info(data, len(upload.data), upload.metadata)

    def _sealed(self, upload: Upload) -> list[bytes]:
        objects = self.world.stores.objects.items()
        held = [data for (_, name), data in objects if name.startswith(f"{upload.id}/")]
        assert len(held) == len(DESTINATIONS)
        return held

    def _choose(self, choice: int, *ends: str) -> str | None:
        found = [tus_id for tus_id, upload in self.known.items() if upload.end in ends]
        return found[choice % len(found)] if found else None

    def _all(self) -> list[Upload]:
        return self.runner.run(self.world.all())

    def _newest(self, tus_id: str) -> Upload | None:
        found = [upload for upload in self._all() if upload.tus_id == tus_id]
        return max(found, key=lambda upload: upload.generation, default=None)

    def _failed_one(self, choice: int) -> Upload | None:
        # No precondition: how far a daemon got that died is not the same each time.
        failed = [upload for upload in self._all() if upload.state is UploadState.FAILED]
        failed.sort(key=lambda upload: upload.tus_id)
        return failed[choice % len(failed)] if failed else None


TestUploading = Uploading.TestCase
TestUploading.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    # A failure is told as it came: it depends on timing, so it can't be made smaller by trying.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Longer(Uploading):
    """The same, many times."""


TestLonger = pytest.mark.long(Longer.TestCase)
TestLonger.settings = settings(
    max_examples=2000,
    stateful_step_count=60,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
