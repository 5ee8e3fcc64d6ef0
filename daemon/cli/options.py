"""Options that many commands share, and what they come to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.settings import Settings


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="config.toml; else $DROPOFFD_CONFIG, ./config.toml or /etc/dropoffd/config.toml",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="JSON on stdout, for scripts")


def places(arguments: argparse.Namespace) -> Settings:
    """The settings without their secrets, for commands that only need to know where things are.

    Raises ConfigError.
    """
    from daemon.config import load  # noqa: PLC0415 - only when a command needs it

    return load(arguments.config, secrets=False)
