"""Requests that are under way to an SFTP server."""

from __future__ import annotations

import inspect

import pytest

from pipeline.destinations.sftp_files import _Window


async def failing() -> int:
    raise ConnectionResetError


async def following() -> int:
    return 0


async def test_a_request_that_waited_behind_one_that_failed_is_not_left_unmade() -> None:
    request = following()
    window = _Window(1)
    await window.add(failing())
    with pytest.raises(ConnectionResetError):
        await window.add(request)
    assert inspect.getcoroutinestate(request) == inspect.CORO_CLOSED
