"""Coverage-guided fuzzing of what reads foreign bytes: ``python -m tests.faults.fuzz``.

Needs the extra ``fuzz`` (atheris). Each target runs in a process of its own, starting from the
written cases; a finding ends it, and the input lies in ``--findings``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

NAMES = (
    *("info", "spool", "hooks", "amqp", "plan", "headers"),
    *("metadata", "config", "keys", "sealed", "records"),
)
LONGEST = 4096
"""Bytes of an input; what is longer than that is in the written cases."""


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="tests.faults.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="all targets together")
    parser.add_argument("--target", choices=NAMES, action="append", help="default: all of them")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    wanted = arguments.target or list(NAMES)
    seconds = max(1, round(60 * arguments.minutes / len(wanted)))
    if arguments.in_process:
        _fuzz(wanted[0], seconds, arguments.findings)
        return 0
    arguments.findings.mkdir(parents=True, exist_ok=True)
    return max(_run(name, seconds, arguments.findings) for name in wanted)


def _run(name: str, seconds: int, findings: Path) -> int:
    began = time.monotonic()
    minutes = str(seconds / 60)
    command = [sys.executable, "-m", "tests.faults.fuzz", "--in-process", "--target", name]
    done = subprocess.run(
        [*command, "--minutes", minutes, "--findings", str(findings)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stderr + done.stdout
    count = re.findall(r"^Done (\d+) runs|^#(\d+)\s", said, re.MULTILINE)
    runs = next((first or second for first, second in reversed(count)), "0")
    spent = time.monotonic() - began
    crashes = int(done.returncode != 0)
    sys.stdout.write(f"{name}: {int(runs):,} executions in {spent:.0f} s, {crashes} crashes\n")
    if crashes:
        sys.stdout.write(f"exit code {done.returncode}\n{said[-4000:]}\n")
    sys.stdout.flush()
    return crashes


def _fuzz(name: str, seconds: int, findings: Path) -> None:
    import atheris  # noqa: PLC0415 - of an optional extra, and only where it is wanted

    with atheris.instrument_imports(include=["daemon", "pipeline"]):
        from tests.faults.fuzz_targets import SEEDS, TARGETS  # noqa: PLC0415 - see above

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            if len(seed) <= LONGEST:
                (Path(corpus) / f"{number:04}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={findings}/{name}-",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
