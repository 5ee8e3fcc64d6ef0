"""What many unit tests begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.journal.sqlite import SqliteJournal
from daemon.settings import Settings
from tests.peers.intake import settings_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose places all lie in the test's directory."""
    return settings_in(tmp_path)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """An empty journal, in the state directory of ``settings``."""
    async with await SqliteJournal.open(tmp_path / "state") as opened:
        yield opened
