"""Delivery while it arrives: parts go out behind the client, and the end is quick and right."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from daemon.journal.model import Sighting, Upload, UploadState
from daemon.journal.sqlite import SqliteJournal
from daemon.processing import follow, growth
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    VerificationError,
)
from pipeline.messages import Abort, Begin, Compare, Digest, Finish, Job, Part, Prove, Result
from tests.peers.conducting import MIB, STUDY, Bench, eventually, failing, identity_of

SIZE = 32 * MIB
NAME = "u1"


class Arriving:
    """An upload that a tus server appends to."""

    def __init__(self, bench: Bench, name: str = NAME) -> None:
        self.bench = bench
        self.name = name
        self.path = bench.uploads / name
        self.path.touch()
        self.data = os.urandom(SIZE)

    def append(self, end: int) -> None:
        have = self.path.stat().st_size
        with self.path.open("ab") as file:
            file.write(self.data[have:end])

    async def sight(self) -> Upload:
        size = self.path.stat().st_size
        sighting = Sighting(
            directory=str(self.bench.uploads),
            tus_id=self.name,
            server="tusd",
            path=self.name,
            info_path=f"{self.path}.info",
            size=SIZE,
            received=size,
            complete=size == SIZE,
            metadata={"study": STUDY},
            study=STUDY,
            filename="f.bam",
            dropoff_id=None,
            identity=identity_of(self.path),
        )
        return await self.bench.journal.sight(sighting, self.bench.now)

    async def reach(self, end: int) -> str:
        self.append(end)
        return (await self.sight()).id

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    journal = await SqliteJournal.open(tmp_path)
    bench = Bench(tmp_path, journal, destinations=2, follow_after=6 * MIB)
    journal.listen(bench.conductor)
    yield bench
    await journal.aclose()


def sent(bench: Bench) -> set[tuple[str, int]]:
    """Destination and number of each part that was sent."""
    return {(j.destination.name, j.span.number) for j in bench.workers.jobs if isinstance(j, Part)}


def held(bench: Bench) -> list[dict[int, bytes]]:
    """The parts of each unfinished object."""
    return list(bench.workers.unfinished.values())


def both(*numbers: int) -> set[tuple[str, int]]:
    return {(name, number) for name in ("d0", "d1") for number in numbers}


async def test_parts_go_out_while_the_upload_is_received_and_none_goes_twice(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        assert (await bench.journal.upload(upload)).state is UploadState.RECEIVING
        await arriving.reach(26 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2, 3, 4, 5))
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{arriving.sha256}"
    parts = [job for job in bench.workers.jobs if isinstance(job, Part)]
    assert len(parts) == len(sent(bench)) == 14
    assert not any(isinstance(job, Digest) for job in bench.workers.jobs), "the file is read again"
    assert bench.workers.unfinished == {}


async def test_an_upload_is_not_followed_before_enough_of_it_is_there(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(5 * MIB)
        assert (await bench.journal.upload(upload)).trail is None
        await arriving.reach(SIZE)
        await bench.until(upload, UploadState.DONE)


async def test_follow_can_be_switched_off(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path) as journal:
        bench = Bench(tmp_path, journal, destinations=1, follow=False, follow_after=6 * MIB)
        journal.listen(bench.conductor)
        arriving = Arriving(bench)
        async with bench.running():
            upload = await arriving.reach(20 * MIB)
            await arriving.reach(25 * MIB)
            assert bench.workers.jobs == []
            await arriving.reach(SIZE)
            await bench.until(upload, UploadState.DONE)


async def test_a_restart_while_it_is_received_goes_on_with_the_parts_that_are_there(
    bench: Bench,
) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
    bench.restart()
    async with bench.running():
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{arriving.sha256}"
    parts = [job for job in bench.workers.jobs if isinstance(job, Part)]
    assert len(parts) == len(sent(bench)) == 14


async def test_after_a_reboot_what_went_out_is_compared_before_it_goes_on(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
    found = await bench.journal.upload(upload)
    assert found.trail is not None
    await bench.journal.trust(upload, msgspec.structs.replace(found.trail, boot="another"))
    bench.restart()
    async with bench.running():
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{arriving.sha256}"
    assert sum(isinstance(job, Compare) for job in bench.workers.jobs) == 2
    assert sum(isinstance(job, Part) for job in bench.workers.jobs) == 14


async def test_a_tail_that_was_lost_and_came_back_different_starts_it_over(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        os.truncate(arriving.path, 7 * MIB)
        await arriving.sight()
        arriving.data = arriving.data[: 7 * MIB] + os.urandom(SIZE - 7 * MIB)
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert (done.digest, done.restarts) == (f"sha256:{arriving.sha256}", 1)
    keys = {job.seal.key for job in bench.workers.jobs if isinstance(job, Part)}
    assert len(keys) == 2, "a key met two plaintexts"
    assert sum(isinstance(job, Abort) for job in bench.workers.jobs) == 2
    assert bench.workers.unfinished == {}


async def test_a_file_that_was_swapped_starts_it_over(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        arriving.data = os.urandom(SIZE)
        other = arriving.path.with_name("other")
        other.write_bytes(arriving.data)
        other.replace(arriving.path)
        await arriving.sight()
        done = await bench.until(upload, UploadState.DONE)
    assert (done.digest, done.restarts) == (f"sha256:{arriving.sha256}", 1)
    assert bench.workers.unfinished == {}


async def test_an_upload_that_is_terminated_half_way_leaves_nothing(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        await bench.journal.terminate(str(bench.uploads), NAME, bench.now)
        await eventually(lambda: bench.workers.unfinished == {})
        await bench.until(upload, UploadState.TERMINATED)
    assert bench.workers.objects == {}


async def test_a_destination_that_is_away_meanwhile_fails_nothing(bench: Bench) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Part) and len(bench.workers.jobs) < 20:
            raise DestinationUnreachableError("away")

    bench.workers.fault = fault
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{arriving.sha256}"


async def test_a_refusal_while_it_is_received_is_told_at_the_end(bench: Bench) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Part | Finish) and job.destination.name == "d1":
            raise DestinationRefusedError("quota")

    bench.workers.fault = fault
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: any(isinstance(job, Part) for job in bench.workers.jobs))
        assert (await bench.journal.upload(upload)).state is UploadState.RECEIVING
        await arriving.reach(SIZE)
        failed = await bench.until(upload, UploadState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "destination_refused"


async def test_a_stalled_upload_does_not_hold_up_a_stop(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))


async def test_a_destination_that_is_away_does_not_hold_the_others_up(bench: Bench) -> None:
    def fault(job: Job) -> object:
        if isinstance(job, Begin) and job.destination.name == "d1":
            raise DestinationUnreachableError("away")
        return asyncio.sleep(0.05) if isinstance(job, Part) else None

    bench.workers.fault = fault
    arriving = Arriving(bench)
    async with bench.running():
        await arriving.reach(12 * MIB)
        await eventually(lambda: [set(parts) for parts in held(bench)] == [{1, 2}])
        arriving.append(22 * MIB)
        await eventually(lambda: [set(parts) for parts in held(bench)] == [{1, 2, 3, 4}])


async def test_one_that_stands_still_does_not_keep_others_from_being_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "AT_ONCE", 1)
    monkeypatch.setattr(growth, "STILL", 0.3)
    stalled, other = Arriving(bench), Arriving(bench, "u2")
    async with bench.running():
        upload = await stalled.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        await eventually(lambda: not bench.conductor._follower.tasks)
        await other.reach(12 * MIB)
        await eventually(lambda: len(held(bench)) == 4)
        await eventually(lambda: not bench.conductor._follower.tasks)
        await stalled.reach(22 * MIB)
        await eventually(lambda: {3, 4} <= set(held(bench)[0]))
        await stalled.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert done.digest == f"sha256:{stalled.sha256}"
    parts = [j for j in bench.workers.jobs if isinstance(j, Part) and j.target.upload == upload]
    assert len(parts) == 14, "parts went twice"


async def test_tries_while_it_is_received_are_none_when_the_object_is_verified(
    bench: Bench,
) -> None:
    arriving = Arriving(bench)
    upload = ""
    for _ in range(4):
        async with bench.running():
            upload = await arriving.reach(arriving.path.stat().st_size + 6 * MIB)
            await eventually(lambda: bench.conductor._context.active)
        bench.restart()
    bench.workers.fault = failing(Finish, VerificationError("wrong"))
    async with bench.running():
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE, UploadState.FAILED)
    assert (done.state, done.digest) == (UploadState.DONE, f"sha256:{arriving.sha256}")


async def test_one_that_came_in_for_longer_than_give_up_gets_all_its_tries(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        bench.now += bench.settings.pipeline.give_up + 1
        bench.workers.fault = failing(Begin, DestinationUnreachableError("away"), times=2)
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE, UploadState.FAILED)
    assert done.state is UploadState.DONE


async def test_a_part_that_was_proved_is_known_again_after_a_reboot(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
    await bench.journal.forget_parts(upload, 1, [2])  # as if its answer had been lost
    bench.restart()
    async with bench.running():
        await arriving.reach(14 * MIB)
        await eventually(lambda: any(isinstance(job, Prove) for job in bench.workers.jobs))
    found = await bench.journal.upload(upload)
    assert found.trail is not None
    await bench.journal.trust(upload, msgspec.structs.replace(found.trail, boot="another"))
    bench.restart()
    async with bench.running():
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert (done.digest, done.restarts) == (f"sha256:{arriving.sha256}", 0)


async def starts_over_with_another_tail(bench: Bench, arriving: Arriving, upload: str) -> None:
    """The tail goes and another comes, while no daemon runs: no key meets both."""
    os.truncate(arriving.path, 7 * MIB)
    arriving.data = arriving.data[: 7 * MIB] + os.urandom(SIZE - 7 * MIB)
    arriving.append(SIZE)
    bench.restart()
    async with bench.running():
        await arriving.sight()
        done = await bench.until(upload, UploadState.DONE)
    assert (done.digest, done.restarts) == (f"sha256:{arriving.sha256}", 1)
    keys = {job.seal.key for job in bench.workers.jobs if isinstance(job, Part)}
    assert len(keys) == 2, "a key met two plaintexts"


async def test_a_tail_that_was_lost_and_replaced_while_nobody_looked_starts_it_over(
    bench: Bench,
) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
    await starts_over_with_another_tail(bench, arriving, upload)


async def test_one_that_lost_its_tail_is_followed_again(bench: Bench) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        os.truncate(arriving.path, 7 * MIB)
        await arriving.sight()
        await eventually(lambda: not bench.conductor._follower.tasks)
        arriving.data = arriving.data[: 7 * MIB] + os.urandom(SIZE - 7 * MIB)
        await arriving.reach(22 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2, 3, 4))
        assert (await bench.journal.upload(upload)).state is UploadState.RECEIVING
        await arriving.reach(SIZE)
        done = await bench.until(upload, UploadState.DONE)
    assert (done.digest, done.restarts) == (f"sha256:{arriving.sha256}", 1)


async def test_what_was_just_being_begun_for_one_that_is_terminated_goes_too(bench: Bench) -> None:
    begun, answer = asyncio.Event(), asyncio.Event()
    run = bench.workers.run

    async def late(job: Job, source: int | None = None) -> Result:
        result = await run(job, source)
        if isinstance(job, Begin):
            begun.set()
            await answer.wait()
        return result

    bench.workers.run = late  # type: ignore[method-assign]
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await begun.wait()
        await eventually(lambda: len(bench.workers.unfinished) == 2)
        await bench.journal.terminate(str(bench.uploads), NAME, bench.now)
        answer.set()
        await eventually(lambda: bench.workers.unfinished == {})
        await bench.until(upload, UploadState.TERMINATED)


async def test_what_a_daemon_that_died_had_just_begun_goes_with_a_terminated_upload(
    bench: Bench,
) -> None:
    run = bench.workers.run

    async def mute(job: Job, source: int | None = None) -> Result:
        result = await run(job, source)
        if isinstance(job, Begin):
            await asyncio.Event().wait()
        return result

    bench.workers.run = mute  # type: ignore[method-assign]
    arriving = Arriving(bench)
    died = asyncio.create_task(bench.conductor.run())
    upload = await arriving.reach(12 * MIB)
    await eventually(lambda: len(bench.workers.unfinished) == 2)
    died.cancel()
    await asyncio.wait([died])
    bench.workers.run = run  # type: ignore[method-assign]
    await bench.journal.terminate(str(bench.uploads), NAME, bench.now)
    bench.restart()
    async with bench.running():
        await eventually(lambda: bench.workers.unfinished == {})
        await bench.until(upload, UploadState.TERMINATED)


async def test_a_destination_that_is_away_keeps_no_other_from_being_cleaned_up(
    bench: Bench,
) -> None:
    def fault(job: Job) -> None:
        if isinstance(job, Abort) and job.destination.name == "d0":
            raise DestinationUnreachableError("away")

    bench.workers.fault = fault
    arriving = Arriving(bench)
    async with bench.running():
        await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
        await bench.journal.terminate(str(bench.uploads), NAME, bench.now)
        await eventually(lambda: len(bench.workers.unfinished) == 1)


async def test_a_part_whose_answer_went_with_the_power_does_not_meet_its_key_again(
    bench: Bench,
) -> None:
    arriving = Arriving(bench)
    async with bench.running():
        upload = await arriving.reach(12 * MIB)
        await eventually(lambda: sent(bench) == both(1, 2))
    for position, parts in enumerate(held(bench)):
        del parts[2]
        await bench.journal.forget_parts(upload, position, [2])
    found = await bench.journal.upload(upload)
    assert found.trail is not None
    await bench.journal.trust(upload, msgspec.structs.replace(found.trail, boot="another"))
    await starts_over_with_another_tail(bench, arriving, upload)
