"""Timeouts of the data path, short enough for tests of silence; for workers in this process."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import pipeline.destinations

SILENCE = 1.5
"""Seconds without a byte that are too many."""


def make_hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every kind of destination lose its patience soon."""
    for found in pkgutil.iter_modules(pipeline.destinations.__path__):
        module = importlib.import_module(f"pipeline.destinations.{found.name}")
        for name in ("SILENCE_TIMEOUT", "CONNECT_TIMEOUT", "CLOSE_TIMEOUT"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, SILENCE if name != "CONNECT_TIMEOUT" else 2.0)
