"""How others bring files to S3 storage, encrypted or not."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.bench import ghga
from tests.bench.measure import Command, Sample, one_shots
from tests.bench.ways import Bench, Run, Start, Way
from tests.peers import cache

HERE = Path(__file__).parent
PARTS = ("--s3-chunk-size=16Mi", "--s3-upload-cutoff=16Mi", "--s3-upload-concurrency=4")
"""Of rclone: as dropoffd has them."""
BARE = ("--s3-disable-checksum", "--s3-use-unsigned-payload=true", "--ignore-checksum")
TRANSFERS = 8


class Rclone:
    """rclone, with remotes `store:` and, over that, the encrypted `sealed:`."""

    def __init__(self, bench: Bench) -> None:
        self.program = cache.tool("rclone", "rclone")
        secret = cache.run([self.program, "obscure", "a password of the bench"]).strip()
        config = bench.directory / "rclone.conf"
        config.touch()
        self.environment: Mapping[str, str] = {
            **bench.environment,
            "RCLONE_CONFIG": str(config),
            "RCLONE_LOG_LEVEL": "ERROR",
            "RCLONE_CONFIG_STORE_TYPE": "s3",
            "RCLONE_CONFIG_STORE_PROVIDER": "Other",
            "RCLONE_CONFIG_STORE_ENDPOINT": bench.url,
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": "bench" * 4,
            "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": "bench" * 8,
            "RCLONE_CONFIG_STORE_NO_CHECK_BUCKET": "true",
            "RCLONE_CONFIG_SEALED_TYPE": "crypt",
            "RCLONE_CONFIG_SEALED_REMOTE": "store:rclone",
            "RCLONE_CONFIG_SEALED_PASSWORD": secret,
        }


def rclone(remote: str, *options: str) -> Start:
    """One `rclone` for everything: `copyto` for a file, `copy` for a directory."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        tool = Rclone(bench)
        load = bench.load

        def run(name: str, *, watched: bool) -> Sample:
            target = f"{remote}{name}"
            command: Command = (
                [tool.program, "copyto", load.files[0], target, *PARTS, *options]
                if len(load.files) == 1
                else [
                    *(tool.program, "copy", load.directory, target),
                    *(f"--transfers={TRANSFERS}", *PARTS, *options),
                ]
            )
            return one_shots([command], tool.environment, at_once=1, watched=watched)

        yield run

    return start


def _each(
    bench: Bench, command: Callable[[Path, str], Command], environment: Mapping[str, str]
) -> Run:
    """A run that starts the command once for each file, with an object's name."""

    def run(name: str, *, watched: bool) -> Sample:
        commands = [command(file, f"{name}/{file.name}") for file in bench.load.files]
        return one_shots(commands, environment, at_once=bench.at_once, watched=watched)

    return run


def _script(text: str) -> Command:
    return [cache.tool("bash", "a pipeline of others"), "-euo", "pipefail", "-c", text]


@contextmanager
def age(bench: Bench) -> Iterator[Run]:
    """`age` into `rclone rcat`, for each file."""
    tool = Rclone(bench)
    program = cache.tool("age", "age")
    keygen = cache.tool("age-keygen", "age")
    secret = cache.run([keygen])
    public = secret.partition("# public key: ")[2].split()[0]

    def command(file: Path, name: str) -> Command:
        sealing = shlex.join([program, "-r", public, str(file)])
        sending = shlex.join([tool.program, "rcat", *PARTS, f"store:age/{name}"])
        return _script(f"{sealing} | {sending}")

    yield _each(bench, command, tool.environment)


@contextmanager
def crypt4gh(bench: Bench) -> Iterator[Run]:
    """`crypt4gh encrypt` to a temporary file and `rclone copyto`, for each file."""
    tool = Rclone(bench)
    program = cache.tool("crypt4gh", "crypt4gh")

    def command(file: Path, name: str) -> Command:
        sealed = shlex.quote(str(bench.directory / f"{file.name}.c4gh"))
        sealing = shlex.join([program, "encrypt", "--recipient_pk", str(bench.recipient)])
        sending = shlex.join([tool.program, "copyto", *PARTS])
        return _script(
            f"{sealing} < {shlex.quote(str(file))} > {sealed}; "
            f"{sending} {sealed} {shlex.quote(f'store:crypt4gh/{name}')}; rm {sealed}"
        )

    yield _each(bench, command, tool.environment)


@contextmanager
def ghga_kit(bench: Bench) -> Iterator[Run]:
    """GHGA's kit, a process for each file. It names objects by itself."""
    python = ghga.python()

    def command(file: Path, _: str) -> Command:
        return [python, "-P", HERE / "ghga_script.py", bench.url, file, bench.directory]

    yield _each(bench, command, bench.environment)


def seed(recipient: Callable[[Bench], str]) -> Start:
    """A Python process for each file: encrypt to a file or not, upload, report."""

    @contextmanager
    def start(bench: Bench) -> Iterator[Run]:
        def command(file: Path, name: str) -> Command:
            script = HERE / "seed_script.py"
            return [sys.executable, "-P", script, bench.url, file, name, recipient(bench)]

        yield _each(bench, command, bench.environment)

    return start


WAYS = [
    Way("rclone", "rclone crypt", rclone("sealed:")),
    Way("rclone-bare", "rclone crypt, no checksums at all", rclone("sealed:", *BARE)),
    Way("age", "age, piped into rclone rcat", age, one_by_one=True),
    Way("crypt4gh", "crypt4gh to a file, rclone copyto", crypt4gh, one_by_one=True),
    Way("ghga", f"GHGA's datasteward-kit {ghga.VERSION}", ghga_kit, one_by_one=True),
    Way(
        "seed",
        "one Python script for each upload",
        seed(lambda bench: str(bench.recipient)),
        one_by_one=True,
    ),
]
CLEAR_WAYS = [
    Way("rclone-copy", "rclone copy", rclone("store:clear/"), sealed=False),
    Way(
        "rclone-copy-bare",
        "rclone copy, no checksums at all",
        rclone("store:clear/", *BARE),
        sealed=False,
    ),
    Way(
        "seed-clear",
        "one Python script for each upload",
        seed(lambda _: "clear"),
        sealed=False,
        one_by_one=True,
    ),
]
