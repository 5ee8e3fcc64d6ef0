"""A rate that is kept to, and a destination that throttles while another one goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.laid_out import make_recipient
from tests.peers.dropoffd import Dropoffd
from tests.peers.null_s3 import NullS3
from tests.peers.proxy import CountingProxy

pytestmark = pytest.mark.peers

MIB = 1024**2
RATE = 12 * MIB
SLOW, FAST = "22222222-2222-4333-8444-555555555555", "33333333-2222-4333-8444-555555555555"
SECRETS = {
    f"DROPOFF_{name}_{what}": "any" * 8
    for name in ("SLOW", "FAST")
    for what in ("ACCESS_KEY", "SECRET_KEY")
}


@pytest.fixture
def store() -> Iterator[NullS3]:
    with NullS3() as running:
        yield running


@pytest.fixture
def between(store: NullS3) -> Iterator[CountingProxy]:
    with CountingProxy(store.url) as proxy:
        yield proxy


def configured(directory: Path, slow: str, fast: str, *, rate: str = "") -> Dropoffd:
    """A daemon with a destination and a study each, `slow` and `fast`."""
    recipient = directory / "recipient.pub"
    make_recipient(recipient)
    config = '[pipeline]\npart_size = "5MiB"\n'
    for name, study, endpoint in (("slow", SLOW, slow), ("fast", FAST, fast)):
        config += f"""
[destinations.{name}]
type = "s3"
endpoint = "{endpoint}"
bucket = "{name}"
region = "us-east-1"
verify = "size"
{rate if name == "slow" else ""}
[studies."{study}"]
recipients = ["{recipient}"]
destinations = ["{name}"]
"""
    return Dropoffd(directory / "service", config, SECRETS)


def receive(daemon: Dropoffd, name: str, study: str, size: int) -> None:
    """A complete upload, as tusd leaves it."""
    data = daemon.uploads / name
    data.write_bytes(os.urandom(size))
    info = {
        "ID": name,
        "Size": size,
        "Offset": size,
        "MetaData": {"filename": f"{name}.bin", "study": study},
        "Storage": {"InfoPath": f"{data}.info", "Path": str(data), "Type": "filestore"},
    }
    (daemon.uploads / f"{name}.info").write_text(json.dumps(info))


def destination(daemon: Dropoffd, name: str) -> dict[str, Any]:
    status = daemon.status()
    assert status is not None
    found: dict[str, Any] = next(d for d in status["destinations"] if d["name"] == name)
    return found


def test_a_rate_holds_over_all_workers_evenly_and_fairly(
    tmp_path: Path, store: NullS3, between: CountingProxy
) -> None:
    daemon = configured(tmp_path, between.endpoint, store.url, rate='rate = "12MiB/s"')
    for name in "ab":
        receive(daemon, name, SLOW, 40 * MIB)
    with daemon:
        daemon.wait_for(lambda: len(between.came) > 100, 30, "bytes come")
        told = destination(daemon, "slow")
        daemon.wait_until_over(2, 60)
        assert daemon.stop() == 0
    assert told["rate"] == RATE
    assert 1 <= told["in_flight"] <= told["limit"]

    start, end = between.came[0][0], between.came[-1][0]
    total = sum(size for _, _, size in between.came)
    assert total / (end - start) == pytest.approx(RATE, rel=0.15)
    for second in range(int(end - start)):
        here = [s for at, _, s in between.came if 0 <= at - start - second < 1]
        assert sum(here) <= RATE * 1.25, f"second {second}"
    assert even_shares(between)


def test_a_destination_that_throttles_does_not_slow_another_one(
    tmp_path: Path, store: NullS3, between: CountingProxy
) -> None:
    between.throttling.set()
    with configured(tmp_path, between.endpoint, store.url) as daemon:
        for number in range(3):
            receive(daemon, f"slow-{number}", SLOW, 12 * MIB)
            receive(daemon, f"small-{number}", SLOW, 1000)
        daemon.wait_for(
            lambda: destination(daemon, "slow")["throttled_since"] is not None, 30, "throttled"
        )
        began = time.monotonic()
        for number in range(4):
            receive(daemon, f"fast-{number}", FAST, 12 * MIB)
        daemon.wait_for(lambda: delivered(daemon, "fast") == 4, 15, "the fast ones are there")
        assert time.monotonic() - began < 10
        slow, fast = destination(daemon, "slow"), destination(daemon, "fast")
        assert delivered(daemon, "slow") == 0
        assert slow["limit"] < fast["limit"]
        assert fast["throttled_since"] is None

        between.throttling.clear()
        daemon.wait_until_over(10, 60)
        assert destination(daemon, "slow")["throttled_since"] is None
        lines = [line for line in daemon.metrics if line["event"] == "delivery"]
        assert {(line["outcome"], line["attempts"]) for line in lines} == {("ok", 1)}
        assert daemon.stop() == 0


def delivered(daemon: Dropoffd, name: str) -> int:
    return sum(
        line["event"] == "delivery" and line["destination"] == name and line["outcome"] == "ok"
        for line in daemon.metrics
    )


def even_shares(between: CountingProxy) -> bool:
    """Whether, while both uploads were on their way, none got much more than the other."""
    paths = {path for _, path, size in between.came if size > 100}
    times = [[at for at, path, _ in between.came if path == p] for p in paths]
    start, end = max(min(at) for at in times), min(max(at) for at in times)
    shares = [
        sum(size for at, path, size in between.came if path == p and start <= at <= end)
        for p in paths
    ]
    return len(shares) == 2 and min(shares) >= 0.6 * max(shares)
