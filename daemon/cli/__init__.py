"""The command line: one module for each group of commands.

A module of commands has ``add(commands)``, which adds its parsers to argparse's subparsers and
sets ``run`` to a function from the parsed arguments to the exit code. What a command needs is
imported when it runs, so that ``dropoffd --help`` is quick.
"""

from __future__ import annotations


def main() -> int:
    """Run `dropoffd`."""
    return 2
