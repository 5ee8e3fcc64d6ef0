"""What can be set, as frozen values. :mod:`daemon.config` makes them from config.toml and secrets.

Sizes are bytes, durations seconds, paths absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from pipeline.discreet import Discreet
from pipeline.messages import DestinationSpec, DigestName, EnvelopeFormat

MIB = 1024 * 1024


class Uploads(msgspec.Struct, frozen=True, kw_only=True):
    """``[uploads]``: where the tus server writes."""

    directory: Path
    info_directory: Path
    rescan: float = 30.0
    study_key: str = "study"
    delete_after: float | None = 0.0
    """Seconds after the last acknowledgement; None: never."""
    roots: tuple[Path, ...] = ()
    """Further directories that a tus server's absolute Storage.Path may lie in."""


class Amqp(Discreet, frozen=True, kw_only=True):
    """``[hooks.amqp]``: the broker that rustus tells of its hooks, and what it calls things there.

    The names default to those of rustus.
    """

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"password"})

    host: str
    port: int
    user: str
    password: str
    virtual_host: str = "/"
    tls: bool = False
    ca_file: str = ""
    exchange: str = "rustus"
    """Empty: the broker's own, by which each queue is reached under its name."""
    exchange_kind: str = "topic"
    routing_key: str = ""
    """Of all messages, and the name of their one queue; empty: there is one queue for each hook."""
    queues_prefix: str = "rustus"
    celery: bool | None = None
    """Whether messages are Celery's; None: they may be."""
    durable_exchange: bool = True
    durable_queues: bool = True


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """``[hooks]``."""

    socket: Path
    listen: str = ""
    timeout: float = 10.0
    study_ids: bool = False
    """Whether pre-create makes tusd (2.3 or newer) keep each upload below its study."""
    amqp: Amqp | None = None
    """None: no broker is listened to."""


class ApiPaths(msgspec.Struct, frozen=True, kw_only=True):
    """``[api.paths]``, below the API's URL."""

    announce: str = "uploads/"
    study: str = "studies/{study}/"
    report: str = "uploads/{upload}/reports/"


class Api(Discreet, frozen=True, kw_only=True):
    """``[api]``, with the HAWK credentials from the secrets."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"url", "hawk_key", "hawk_secret"})

    url: str = ""
    sign_as: str = ""
    hawk_key: str = ""
    hawk_secret: str = ""
    unsigned_answers: bool = False
    inline_destinations: tuple[str, ...] = ()
    timeout: float = 30.0
    ca_file: str = ""
    paths: ApiPaths = ApiPaths()


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """``[pipeline]``."""

    workers: int
    """At least 1; 0 in the file became the number of cores."""
    deliveries: int = 8
    memory: int = 64 * MIB
    part_size: int = 16 * MIB
    digest: DigestName = "sha256"
    give_up: float = 7 * 86400.0
    follow: bool = True
    follow_after: int = 64 * MIB
    stop_timeout: float = 30.0
    """How long the first SIGTERM waits for parts in flight."""


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """``[destinations.NAME]``: the storage, and the template of names in it."""

    spec: DestinationSpec
    path: str = "{study}/{upload}/{filename}"
    rate: int = 0
    """Bytes a second that may go there, over all uploads; 0: as fast as it goes."""


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """``[studies."UUID"]``: a study answered without the REST API."""

    id: str
    """Lower-case UUID."""
    encrypt: EnvelopeFormat
    recipients: tuple[str, ...]
    """The texts of the public key files, or age recipients."""
    destinations: tuple[str, ...]
    open: bool = True
    max_size: int | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    file: Path | None
    uploads: Uploads
    spool: Path
    state: Path
    hooks: Hooks
    api: Api
    pipeline: Pipeline
    destinations: dict[str, Destination]
    studies: dict[str, Study]
    """By lower-case UUID."""
