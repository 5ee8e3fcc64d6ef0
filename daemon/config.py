"""config.toml and the secrets → frozen settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from daemon.config_amqp import read_amqp
from daemon.config_checks import (
    is_listen,
    template_problem,
    url_problem,
    with_slash,
)
from daemon.config_destinations import DestinationReader
from daemon.config_file import (
    ApiTable,
    File,
    HooksTable,
    Issues,
    Key,
    PathsTable,
    PipelineTable,
    UploadsTable,
    absolute,
    describe,
    dotted,
    read,
)
from daemon.config_studies import StudyReader
from daemon.credentials import Credentials, variable
from daemon.errors import ConfigError
from daemon.settings import (
    Api,
    ApiPaths,
    Hooks,
    Pipeline,
    Settings,
    Uploads,
)
from daemon.units import DURATION_EXAMPLE, parse_duration

SYSTEM_FILE = Path("/etc/dropoffd/config.toml")

MAX_FILE = 4 * 1024 * 1024
MAX_SOCKET_PATH = 107
"""Bytes that the kernel takes as a Unix socket's path."""

SEGMENT = 64 * 1024
"""Parts begin at whole segments."""
MAX_PART = 5 * 1024**3
MIN_MEMORY = 1024 * 1024
MOST_WORKERS = 1024
MOST_DELIVERIES = 100_000


def find(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The config.toml to use: ``path``, else ``$DROPOFFD_CONFIG``, ``./config.toml``, ``/etc``.

    Raises ConfigError where there is none.
    """
    named = path or (Path(value) if (value := environ.get("DROPOFFD_CONFIG")) else None)
    if named is not None:
        return named.absolute()
    places = (Path("config.toml").absolute(), SYSTEM_FILE)
    for place in places:
        if place.exists():
            return place
    raise ConfigError(
        "no config.toml found; expected --config FILE, $DROPOFFD_CONFIG, "
        f"{places[0]} or {places[1]}"
    )


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    secrets: bool = True,
) -> Settings:
    """The settings of a config.toml and of the secrets that go with it.

    ``environ`` is the process's own environment unless given. Without ``secrets`` none is looked
    for or missed: enough for commands that only need to know where things are, run by somebody
    who may not read them. Raises ConfigError that names every mistake with file, line, key, what
    was found and what is expected.
    """
    environ = os.environ if environ is None else environ
    file = find(path, environ)
    text = _read_text(file)
    issues = Issues(file, text)
    tables = read(file, text, issues)
    credentials = Credentials(environ, file.parent / ".env") if secrets else None
    settings = _Builder(file, issues, credentials).settings(tables)
    issues.raise_any()
    return settings


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{file}: too long for a config.toml, expected at most 4 MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: expected UTF-8 text") from None


class _Builder:
    """Makes settings of the tables, and notes what can't be used."""

    def __init__(self, file: Path, issues: Issues, credentials: Credentials | None) -> None:
        self._file = file
        self._issues = issues
        self._credentials = credentials

    def settings(self, tables: File) -> Settings:
        uploads = self._uploads(tables.uploads)
        destinations = DestinationReader(self._file, self._issues, self._credentials).read(
            tables.destinations
        )
        settings = Settings(
            file=self._file,
            uploads=uploads,
            spool=self._path(("spool", "directory"), tables.spool.directory),
            state=self._path(("state", "directory"), tables.state.directory),
            hooks=self._hooks(tables.hooks),
            api=self._api(tables.api),
            pipeline=self._pipeline(tables.pipeline),
            destinations=destinations,
            studies=StudyReader(self._file, self._issues, frozenset(destinations)).read(
                tables.studies
            ),
        )
        self._check_variables(settings)
        self._check_apart(settings)
        return settings

    def _uploads(self, table: UploadsTable) -> Uploads:
        directory = self._path(("uploads", "directory"), table.directory)
        self._check_positive(("uploads", "rescan"), table.rescan)
        if not table.study_key.strip():
            self._issues.add(("uploads", "study_key"), 'empty, expected a name such as "study"')
        return Uploads(
            directory=directory,
            info_directory=(
                self._path(("uploads", "info_directory"), table.info_directory)
                if table.info_directory
                else directory
            ),
            rescan=float(table.rescan),
            study_key=table.study_key,
            delete_after=self._delete_after(table.delete),
            roots=tuple(self._path(("uploads", "roots"), root) for root in table.roots),
        )

    def _delete_after(self, text: str) -> float | None:
        if text == "never":
            return None
        if text == "delivered":
            return 0.0
        try:
            return parse_duration(text)
        except ValueError:
            self._issues.add(
                ("uploads", "delete"),
                f'found {describe(text)}, expected "delivered", "never", or {DURATION_EXAMPLE}',
            )
            return None

    def _hooks(self, table: HooksTable) -> Hooks:
        socket = self._path(("hooks", "socket"), table.socket)
        if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
            self._issues.add(
                ("hooks", "socket"),
                f"{describe(str(socket))} is too long for a socket, "
                f"expected at most {MAX_SOCKET_PATH} bytes",
            )
        self._check_positive(("hooks", "timeout"), table.timeout)
        if table.listen and not is_listen(table.listen):
            self._issues.add(
                ("hooks", "listen"),
                f'found {describe(table.listen)}, expected "HOST:PORT" such as "127.0.0.1:8121"',
            )
        return Hooks(
            socket=socket,
            listen=table.listen,
            timeout=float(table.timeout),
            study_ids=table.study_ids,
            amqp=read_amqp(self._file, self._issues, self._credentials, table.amqp),
        )

    def _api(self, table: ApiTable) -> Api:
        url = self._api_url(table.url)
        sign_as = with_slash(table.sign_as)
        if sign_as:
            self._check_url(("api", "sign_as"), sign_as)
        for prefix in table.inline_destinations:
            self._check_url(("api", "inline_destinations"), prefix)
        self._check_positive(("api", "timeout"), table.timeout)
        key = self._secret("DROPOFF_API_HAWK_KEY")
        secret = self._secret("DROPOFF_API_HAWK_SECRET")
        if url and self._credentials is not None:
            missing = [
                name
                for name, value in (
                    ("DROPOFF_API_HAWK_KEY", key),
                    ("DROPOFF_API_HAWK_SECRET", secret),
                )
                if not value
            ]
            if missing:
                self._issues.add(
                    ("api", "url"),
                    f"set, but {' and '.join(missing)} missing; expected as credentials, "
                    f"in the environment or in {self._file.parent / '.env'}",
                )
        return Api(
            url=url,
            sign_as=sign_as,
            hawk_key=key,
            hawk_secret=secret,
            unsigned_answers=table.unsigned_answers,
            inline_destinations=table.inline_destinations,
            timeout=float(table.timeout),
            ca_file=self._ca_file(("api", "ca_file"), table.ca_file),
            paths=self._api_paths(table.paths),
        )

    def _api_url(self, url: str) -> str:
        if url:
            self._check_url(("api", "url"), url)
            return with_slash(url)
        url = self._secret("WEBHOOK_URL")
        # Its value may hold a token, and so is never told.
        if url and (problem := url_problem(url)):
            self._issues.add(("api", "url"), f"WEBHOOK_URL {problem}")
        return with_slash(url)

    def _api_paths(self, table: PathsTable) -> ApiPaths:
        for name, path, fields in (
            ("announce", table.announce, frozenset[str]()),
            ("study", table.study, frozenset({"study"})),
            ("report", table.report, frozenset({"upload"})),
        ):
            key = ("api", "paths", name)
            self._check_template(key, path, fields)
            for field in sorted(fields):
                if f"{{{field}}}" not in path:
                    self._issues.add(key, f"expected {{{field}}} in it")
            if path.startswith("/") or "://" in path:
                self._issues.add(key, "expected a path below the API's URL, without a leading /")
        return ApiPaths(announce=table.announce, study=table.study, report=table.report)

    def _pipeline(self, table: PipelineTable) -> Pipeline:
        self._check_least(("pipeline", "workers"), table.workers, 0)
        self._check_most(("pipeline", "workers"), table.workers, MOST_WORKERS)
        self._check_least(("pipeline", "deliveries"), table.deliveries, 1)
        self._check_most(("pipeline", "deliveries"), table.deliveries, MOST_DELIVERIES)
        self._check_positive(("pipeline", "give_up"), table.give_up)
        if table.memory < MIN_MEMORY:
            self._issues.add(("pipeline", "memory"), 'too small, expected at least "1MiB"')
        if not SEGMENT <= table.part_size <= MAX_PART or table.part_size % SEGMENT:
            self._issues.add(
                ("pipeline", "part_size"),
                'expected a multiple of "64KiB" up to "5GiB", such as "16MiB"',
            )
        return Pipeline(
            workers=table.workers or len(os.sched_getaffinity(0)),
            deliveries=table.deliveries,
            memory=int(table.memory),
            part_size=int(table.part_size),
            digest=table.digest,
            give_up=float(table.give_up),
            follow=table.follow,
            follow_after=int(table.follow_after),
            stop_timeout=float(table.stop_timeout),
        )

    def _secret(self, name: str) -> str:
        return self._credentials.get(name) if self._credentials is not None else ""

    def _path(self, key: Key, text: str) -> Path:
        return absolute(self._file, self._issues, key, text)

    def _ca_file(self, key: Key, text: str) -> str:
        if not text:
            return ""
        path = self._path(key, text)
        if not path.is_file():
            self._issues.add(key, f"{path}: no such file, expected CA certificates in PEM")
        return str(path)

    def _check_url(self, key: Key, url: str) -> None:
        if problem := url_problem(url):
            self._issues.add(key, problem)

    def _check_least(self, key: Key, value: int, least: int) -> None:
        if value < least:
            self._issues.add(key, f"found {describe(value)}, expected at least {least}")

    def _check_most(self, key: Key, value: int, most: int) -> None:
        if value > most:
            self._issues.add(key, f"found {describe(value)}, expected at most {most}")

    def _check_positive(self, key: Key, seconds: float) -> None:
        if seconds <= 0:
            self._issues.add(key, f"found no time at all, expected {DURATION_EXAMPLE}")

    def _check_template(self, key: Key, template: str, known: frozenset[str]) -> None:
        if problem := template_problem(template, known):
            self._issues.add(key, problem)

    def _check_variables(self, settings: Settings) -> None:
        """No two must share the names of their secrets."""
        seen: dict[str, str] = {}
        if settings.hooks.amqp is not None:
            seen[variable("amqp", "")] = "hooks.amqp"
        for name in settings.destinations:
            other = seen.setdefault(variable(name, ""), name)
            if other != name:
                shared = "PASSWORD" if other == "hooks.amqp" else "ACCESS_KEY"
                self._issues.add(
                    ("destinations", name),
                    f"too like {dotted((other,))}: both take {variable(name, shared)}",
                )

    def _check_apart(self, settings: Settings) -> None:
        """What the daemon writes must not lie where it looks for uploads."""
        places: dict[Key, Path] = {
            ("spool", "directory"): settings.spool,
            ("state", "directory"): settings.state,
        }
        for name, destination in settings.destinations.items():
            if destination.spec.type == "directory" and destination.spec.directory:
                places["destinations", name, "directory"] = Path(destination.spec.directory)
        for key, place in places.items():
            for uploads in (
                settings.uploads.directory,
                settings.uploads.info_directory,
                *settings.uploads.roots,
            ):
                if place.is_relative_to(uploads):
                    self._issues.add(
                        key, f"{place} lies in the upload directory, expected outside of {uploads}"
                    )
