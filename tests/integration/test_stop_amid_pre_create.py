"""A daemon that is told to stop doesn't keep pre-create, or itself, waiting for the REST API."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.peers import announcements, faulty
from tests.peers.dropoffd import Dropoffd
from tests.peers.faulty import FaultyHttp, Spoil
from tests.peers.reference_api import ReferenceServer, study_table
from tests.peers.tusd_files import pre_create

pytestmark = [pytest.mark.peers, pytest.mark.timeout(60)]

STUDY = str(uuid.uuid4())
METADATA = {"filename": "asked.bam", "study": STUDY}
AT_ONCE = 5
ANSWERS_WITHIN, ENDS_WITHIN = 2.0, 5.0
"""Seconds; the API has 30 for its answer, and pre-create 10."""


@pytest.mark.parametrize("fault", [lambda: faulty.stall_in_body(0), faulty.silent_after_body])
async def test_pre_creates_that_wait_for_the_api_are_refused_at_once_and_the_daemon_ends(
    tmp_path: Path, fault: Callable[[], Spoil]
) -> None:
    (tmp_path / "api").mkdir()
    with ReferenceServer(tmp_path / "api", study_table(STUDY), path="/") as api:
        async with FaultyHttp(api.api.url) as proxy:
            proxy.spoil(_any, fault(), AT_ONCE)
            hawk = {
                "WEBHOOK_URL": proxy.url,
                "DROPOFF_API_HAWK_KEY": ReferenceServer.key,
                "DROPOFF_API_HAWK_SECRET": ReferenceServer.secret,
            }
            with Dropoffd(tmp_path / "daemon", "", hawk) as daemon:
                asking = [
                    asyncio.create_task(asyncio.to_thread(pre_create, daemon, 1, METADATA))
                    for _ in range(AT_ONCE)
                ]
                async with asyncio.timeout(20):
                    while proxy.made < AT_ONCE:  # noqa: ASYNC110 -- the proxy has no event for it
                        await asyncio.sleep(0.02)
                began = time.monotonic()
                stopping = asyncio.create_task(asyncio.to_thread(daemon.stop))
                answers = await asyncio.gather(*asking)
                answered = time.monotonic() - began
                assert await stopping == 0
                ended = time.monotonic() - began
            said = [answer["HTTPResponse"] for answer in answers]
            assert {each["StatusCode"] for each in said} == {503}
            assert all("Retry-After" in each["Header"] for each in said)
            assert (answered < ANSWERS_WITHIN, ended < ENDS_WITHIN) == (True, True)
            assert announcements.asked(daemon) == AT_ONCE, "to be settled by the next start"


def _any(request: web.BaseRequest) -> bool:
    return request.path == "/uploads/"
