"""Rules for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.peers.cache import PeerMissingError


def pytest_configure() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that.

    Those that tests interrupt would go on for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _take_time()


def _take_time() -> None:
    """Properties hold or don't: how long an example takes says how busy the machine is.

    Hypothesis' own limit is 0.2 s, except where CI is set.
    """
    settings.register_profile("unhurried", parent=settings.default, deadline=None)
    settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    """A peer that this machine can't have skips the tests that ask for it."""
    try:
        return (yield)
    except PeerMissingError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Likewise where a test starts the peer itself."""
    try:
        return (yield)
    except PeerMissingError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a skipped test has failed: there, everything that is needed must be."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which is no success here: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Likewise for a module that skips itself while it is collected."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which is no success here: {_reason(report.longrepr)}"
    return report


def _reason(told: object) -> str:
    match told:
        case (str(path), int(line), str(reason)):
            return f"{path}:{line}: {reason}"
        case _:
            return str(told)
