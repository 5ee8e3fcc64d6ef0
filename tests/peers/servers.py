"""Every tus server with every kind of hooks, in front of a whole dropoffd, behind nginx and direct.

A kind of hooks is one function in :data:`HOOKS`: what it starts, and what it tells the tus server
and the daemon.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from daemon.cli import main
from daemon.cli.install import RUSTUS_FILE
from daemon.cli.install_amqp import RUSTUS_ENVIRONMENT
from pipeline.envelope import keys
from tests.peers import rustus, tusd
from tests.peers.dropoffd import Dropoffd
from tests.peers.hawk import HawkServer
from tests.peers.nginx import Nginx
from tests.peers.rabbitmq import PASSWORD, RabbitMq
from tests.peers.rustus import Rustus
from tests.peers.stores import Folder
from tests.peers.tusd import STEADY, Tusd, free_port

Server = Literal["tusd", "tusd1", "rustus"]
"""As `dropoffd install --server` calls them."""

NAMES: dict[Server, str] = {
    "tusd": f"tusd {tusd.VERSIONS[2]}",
    "tusd1": f"tusd {tusd.VERSIONS[1]}",
    "rustus": f"rustus {rustus.VERSION}",
}
VIRTUAL = "aaaaaaaa-2222-4333-8444-555555555555"
DIRECT = "bbbbbbbb-2222-4333-8444-555555555555"
OTHER = "cccccccc-2222-4333-8444-555555555555"
"""Open as well, and never named in a URL where uploads are made."""


@dataclass(frozen=True)
class Setup:
    """A tus server, and how it tells of uploads."""

    server: Server
    hooks: str
    """A key of ``HOOKS[server]``."""
    study_ids: bool = False

    def __str__(self) -> str:
        """As in a test's id."""
        below = " study_ids" if self.study_ids else ""
        return f"{NAMES[self.server]} {self.hooks}{below}"


@dataclass(frozen=True)
class Ground:
    """Where a site is built."""

    directory: Path
    """Of its own."""
    hooks: Path
    """What `dropoffd install hooks` writes for the server is here before that is started."""
    listen: str
    """The daemon's `[hooks] listen`."""
    stack: ExitStack
    """Ends what was entered into it, after the tus server."""


@dataclass(frozen=True)
class Wiring:
    """How hooks get from a tus server to the daemon."""

    options: tuple[str, ...] = ()
    """Of the tus server."""
    settings: str = ""
    """Lines of the daemon's ``[hooks]``."""
    tables: str = ""
    """Further tables of its config."""
    environment_file: Path | None = None
    """With variables of the tus server."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the tus server."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Of the daemon's environment."""
    asks: bool = True
    """Whether the tus server waits for the daemon's word before it makes an upload."""


def _none(_: Ground) -> Wiring:
    return Wiring(asks=False)


def _tusd_file(ground: Ground) -> Wiring:
    return Wiring(("-hooks-dir", str(ground.hooks)))


def _tusd_http(ground: Ground) -> Wiring:
    return Wiring(("-hooks-http", f"http://{ground.listen}/hooks"))


def _tusd1_file(ground: Ground) -> Wiring:
    return Wiring((*_tusd_file(ground).options, *STEADY))


def _tusd1_http(ground: Ground) -> Wiring:
    return Wiring((*_tusd_http(ground).options, *STEADY))


def _rustus_file(ground: Ground) -> Wiring:
    return Wiring(("--hooks-file", str(ground.hooks / RUSTUS_FILE)))


def _rustus_directory(ground: Ground) -> Wiring:
    return Wiring(("--hooks-dir", str(ground.hooks)))


def _rustus_http(ground: Ground) -> Wiring:
    # rustus waits 2 s for an answer: the daemon's own words for a late one have to come first.
    url = f"http://{ground.listen}/hooks"
    return Wiring(("--hooks-http-urls", url), 'timeout = "1500ms"\n')


def _rustus_amqp(ground: Ground) -> Wiring:
    broker = ground.stack.enter_context(RabbitMq(ground.directory / "rabbit"))
    return Wiring(
        tables=f'[hooks.amqp]\nurl = "{broker.url}"\n',
        environment_file=ground.hooks / RUSTUS_ENVIRONMENT,
        environment={"RUSTUS_HOOKS_AMQP_URL": broker.full_url},
        secrets={"DROPOFF_AMQP_PASSWORD": PASSWORD},
        asks=False,
    )


def _rustus_celery(ground: Ground) -> Wiring:
    wiring = _rustus_amqp(ground)
    return replace(wiring, tables=wiring.tables + "celery = true\n")


HOOKS: dict[Server, dict[str, Callable[[Ground], Wiring]]] = {
    "tusd": {"file": _tusd_file, "HTTP": _tusd_http, "none": _none},
    "tusd1": {"file": _tusd1_file, "HTTP": _tusd1_http, "none": _none},
    "rustus": {
        "file": _rustus_file,
        "directory": _rustus_directory,
        "HTTP": _rustus_http,
        "AMQP": _rustus_amqp,
        "AMQP with Celery": _rustus_celery,
        "none": _none,
    },
}
SETUPS = [
    Setup(server, hooks, study_ids)
    for server, kinds in HOOKS.items()
    for hooks in kinds
    for study_ids in (False, True)
    if not study_ids or (server == "tusd" and hooks != "none")
]
"""All there are: only tusd 2 takes ids from its hooks."""


@dataclass(frozen=True)
class Way:
    """Where uploads are made, what clients call their study there, and which it then is."""

    name: Literal["nginx", "direct"]
    url: str
    claimed: str
    study: str
    base: str
    """What stands before the tus id in the path of an upload's URL."""

    def tus_id(self, upload: str) -> str:
        """The tus server's id of an upload."""
        path = urlsplit(upload).path
        assert path.startswith(self.base), f"{path} is not below {self.base}"
        return path.removeprefix(self.base)


@dataclass(frozen=True)
class Site:
    """A REST API, the daemon, a tus server and nginx, each a process of its own."""

    setup: Setup
    api: HawkServer
    daemon: Dropoffd
    server: Tusd | Rustus
    nginx: Nginx
    infos: Path
    store: Folder
    secret_key: bytes
    options: str
    """What the tus server was told of hooks, without the places on this machine."""
    asks: bool
    """See :attr:`Wiring.asks`."""

    @property
    def ways(self) -> dict[str, Way]:
        """Behind nginx, where clients call their study something else, and direct."""
        below = f"/uploads/{'' if self.setup.study_ids else VIRTUAL + '/'}"
        virtual = Way("nginx", self.nginx.url(VIRTUAL), OTHER, VIRTUAL, below)
        direct = Way("direct", self.server.url, DIRECT.upper(), DIRECT, "/files/")
        return {way.name: way for way in (virtual, direct)}

    def drop(self, tus_id: str) -> Mapping[str, Any] | None:
        """What the REST API was told of an upload, once a report names it."""
        for drop in self.api.drops():
            if any(report["tus_id"] == tus_id for report in drop["reports"]):
                return drop
        return None

    def states(self, tus_id: str) -> list[str]:
        """Of its reports, as they came."""
        drop = self.drop(tus_id)
        return [] if drop is None else [report["state"] for report in drop["reports"]]

    def counts(self) -> dict[str, int]:
        """How many uploads the daemon has, by state."""
        status = self.daemon.status()
        found: dict[str, int] = {} if status is None else status["uploads"]
        return found


@contextmanager
def site(directory: Path, setup: Setup) -> Iterator[Site]:
    """Everything an upload meets, running. Raises PeerMissingError where one can't be had."""
    pair = keys.crypt4gh_generate()
    plan = {"encrypt": "crypt4gh", "recipients": [pair.public], "destinations": [{"use": "local"}]}
    open_ = {**plan, "open": True, "max_size": None}
    (directory / "store").mkdir()
    with ExitStack() as stack:
        api = stack.enter_context(
            HawkServer(directory / "api", dict.fromkeys((VIRTUAL, DIRECT, OTHER), open_))
        )
        listen = f"127.0.0.1:{free_port()}"
        ground = Ground(directory, directory / "hooks", listen, stack)
        wiring = HOOKS[setup.server][setup.hooks](ground)
        environment = {**api.environment, **wiring.secrets}
        daemon = Dropoffd(directory / "daemon", _config(ground, setup, wiring), environment)
        infos = _infos(directory, setup, daemon)
        told = ["--server", setup.server, "--config", str(daemon.config)]
        assert main(["install", "hooks", "--directory", str(ground.hooks), *told]) == 0
        server = _server(setup, daemon.uploads, infos, wiring)
        nginx = Nginx(directory / "nginx", server.url, told)
        for each in (daemon, server, nginx):
            stack.enter_context(each)
        secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")
        store = Folder(directory / "store")
        yield Site(
            setup,
            api,
            daemon,
            server,
            nginx,
            infos,
            store,
            secret_key,
            _shown(ground, wiring),
            wiring.asks,
        )


def _config(ground: Ground, setup: Setup, wiring: Wiring) -> str:
    hooks = f'listen = "{ground.listen}"\nstudy_ids = {str(setup.study_ids).lower()}\n'
    store = f'[destinations.local]\ntype = "directory"\ndirectory = "{ground.directory}/store"\n'
    return hooks + wiring.settings + wiring.tables + store


def _infos(directory: Path, setup: Setup, daemon: Dropoffd) -> Path:
    """``.info`` files lie apart where the server can have it so."""
    if setup.server != "rustus":
        return daemon.uploads
    infos = directory / "infos"
    infos.mkdir()
    told = f'[uploads]\ninfo_directory = "{infos}"\n'
    daemon.config.write_text(daemon.config.read_text().replace("[uploads]\n", told))
    return infos


def _server(setup: Setup, uploads: Path, infos: Path, wiring: Wiring) -> Tusd | Rustus:
    if setup.server == "rustus":
        environment = _environment(wiring)
        return Rustus(uploads, infos, options=wiring.options, environment=environment)
    version: tusd.Version = 1 if setup.server == "tusd1" else 2
    return Tusd(uploads, version=version, port=free_port(), options=wiring.options)


def _environment(wiring: Wiring) -> dict[str, str]:
    file = wiring.environment_file
    lines = [] if file is None else shlex.split(file.read_text(), comments=True)
    return dict(line.split("=", 1) for line in lines) | dict(wiring.environment)


def _shown(ground: Ground, wiring: Wiring) -> str:
    # A file of variables is shown as systemd takes it.
    file = wiring.environment_file
    options = " ".join(wiring.options if file is None else (f"EnvironmentFile={file}",))
    return options.replace(str(ground.hooks), "DIR").replace(ground.listen, "LISTEN")
