"""What the daemon and its workers say to each other: jobs in, results out.

A message is one JSON frame on a Unix socket (see :mod:`pipeline.channel`). A job that reads the
source comes with an open file descriptor; no job ever names the source by path. Every job is safe
to repeat: the same job on the same bytes has the same effect.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from pipeline.discreet import Discreet

EnvelopeFormat = Literal["crypt4gh", "age", "none"]
DigestName = Literal["sha256", "blake3"]
VerifyMode = Literal["checksum", "readback", "size"]
Addressing = Literal["auto", "path", "virtual"]
ServerEncryption = Literal["", "sse-s3", "sse-kms", "sse-c"]
LockMode = Literal["", "GOVERNANCE", "COMPLIANCE"]


class DestinationSpec(Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """A storage as a worker needs it, secrets included. Equal specs share one connection pool.

    ``name`` is the name in the config, or ``inline-<n>`` for one that the REST API described.
    """

    HIDDEN: ClassVar[frozenset[str]] = frozenset(
        {"access_key", "secret_key", "session_token", "password", "key", "sse_c_key"}
    )

    name: str
    type: Literal["s3", "directory", "webdav", "sftp"]
    verify: VerifyMode = "checksum"
    # s3
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    ca_file: str = ""
    addressing: Addressing = "auto"
    """Where the bucket stands: in the path, in the host's name, or where the endpoint wants it."""
    sse: ServerEncryption = ""
    """What the store encrypts with, on top of our envelope; empty: as the bucket is set up."""
    sse_kms_key: str = ""
    """For ``sse-kms``: the key's id; empty: the store's own choice."""
    sse_c_key: str = ""
    """For ``sse-c``: base64 of 32 bytes."""
    storage_class: str = ""
    lock_mode: LockMode = ""
    lock_days: int = 0
    """How long an object can't be deleted, from the beginning of its delivery on."""
    legal_hold: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    """Names and values, in which ``{study}`` and ``{upload}`` are filled in."""
    # directory; for sftp: where names begin on the server
    directory: str = ""
    # webdav and sftp
    user: str = ""
    password: str = ""
    """For sftp with an encrypted ``key``: its passphrase."""
    # webdav, which also uses ca_file
    url: str = ""
    chunks: bool = True
    """Whether a server that offers chunked uploads may be sent them."""
    # sftp
    host: str = ""
    port: int = 22
    key: str = ""
    """A private key, or the absolute path of its file."""
    host_keys: str = ""
    """The server's public key, or the absolute path of a known_hosts file."""


class Traits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a store was found to do. It saves finding out, and is never relied on unseen."""

    counts: bool
    """Whether it counts the CRC-64/NVME of parts and objects by itself, and tells it."""
    insists: bool = False
    """Whether it takes parts only with a checksum sent along."""
    conditional: bool | None = None
    """Whether completing an object heeds ``If-None-Match``; None: not tried."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One object to be: its name inside the destination, and what its bytes will come to."""

    upload: str
    """The upload's own id, kept with the object so that we know it again."""
    name: str
    """Key or relative path, envelope suffix included."""
    size: int
    """Bytes of the whole sealed object."""
    study: str = ""
    """For tags; empty where the object isn't written."""


class Seal(Discreet, frozen=True, kw_only=True):
    """How the plaintext becomes the object's bytes. Equal seals give equal bytes."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"key"})

    format: EnvelopeFormat
    key: bytes
    """The session key, 32 bytes; empty for ``none``."""
    header: bytes
    """What stands before the first segment; empty for ``none``."""
    size: int
    """Bytes of the whole plaintext."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A part: plaintext bytes ``offset`` to ``offset + length``, numbered from 1.

    ``offset`` is a multiple of the segment size (64 KiB). Part 1 also carries the header.
    """

    number: int
    offset: int
    length: int


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast bytes may go to a destination, from all workers together."""

    lane: int
    """Where the workers' common timetable has its next turn; see :mod:`pipeline.pacing`."""
    rate: float
    """Bytes a second, over 0."""


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part that a destination holds, with what proves it."""

    number: int
    size: int
    """Sealed bytes, the header included for part 1."""
    etag: str = ""
    """The store's own mark for it, needed again to complete; empty where there is none."""
    crc64nvme: int
    """Of the sealed bytes, computed while they were sent."""
    plaintext: str = ""
    """BLAKE3 of its plaintext, hex, where :class:`Part` asked for it."""


class HeldPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part as the destination lists it."""

    number: int
    size: int
    etag: str = ""


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """A finished, verified object."""

    uri: str
    size: int
    etag: str = ""
    checksum: dict[str, str] = {}
    """Name to value as the store shows it, e.g. ``{"crc64nvme": "<base64>"}``."""
    verified: VerifyMode


# Jobs ---------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag="begin"):
    """Start an unfinished object, or find the one that ``reference`` names again.

    ``stale`` says that an earlier try may have left an unfinished object that nobody remembers:
    such leftovers under this very name are removed first.
    """

    destination: DestinationSpec
    target: Target
    reference: str = ""
    stale: bool = False
    traits: Traits | None = None
    """What the destination was found to do before."""


class Part(msgspec.Struct, frozen=True, kw_only=True, tag="part"):
    """Seal one part and send it. Needs the source's descriptor."""

    destination: DestinationSpec
    target: Target
    reference: str
    seal: Seal
    span: Span
    fingerprint: bool = False
    """Whether the plaintext's BLAKE3 is wanted: for a source that may still change its past."""
    pace: Pace | None = None
    """None: as fast as it goes."""


class Compare(msgspec.Struct, frozen=True, kw_only=True, tag="compare"):
    """Read one part's plaintext again. Needs the source's descriptor."""

    span: Span
    plaintext: str
    """BLAKE3, hex, that it had."""


class Prove(msgspec.Struct, frozen=True, kw_only=True, tag="prove"):
    """Seal one part without sending it, and hold it against what the destination has.

    Needs the source's descriptor. ``held`` is None where the destination lists nothing and must be
    read (a directory). ``fingerprint`` as in :class:`Part`.
    """

    destination: DestinationSpec
    target: Target
    reference: str
    seal: Seal
    span: Span
    held: HeldPart | None = None
    fingerprint: bool = False


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """Put the parts together under the final name, and verify the object.

    ``stale`` as in :class:`Begin`; what is left is removed last, when no request that a dead worker
    sent can be on its way any more.
    """

    destination: DestinationSpec
    target: Target
    reference: str
    parts: tuple[StoredPart, ...]
    seal: Seal | None = None
    """Where the destination's objects are verified by reading them back: what opens them."""
    digest: str = ""
    """Likewise: of the plaintext, ``<name>:<hex>``."""
    stale: bool = False


class Whole(msgspec.Struct, frozen=True, kw_only=True, tag="whole"):
    """A small upload in one go: seal, send, verify, and the plaintext's digest on the way.

    Needs the source's descriptor. ``stale`` as in :class:`Begin`: an earlier try may have got
    through without its answer coming back.
    """

    destination: DestinationSpec
    target: Target
    seal: Seal
    digest: DigestName
    stale: bool = False
    pace: Pace | None = None


class Digest(msgspec.Struct, frozen=True, kw_only=True, tag="digest"):
    """The digest of the whole plaintext. Needs the source's descriptor."""

    digest: DigestName
    size: int


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Remove an unfinished object. Nothing there is fine."""

    destination: DestinationSpec
    target: Target
    reference: str
    """Empty where nobody knows it: then all go that the destination has of this upload."""


Job = Begin | Part | Compare | Prove | Finish | Whole | Digest | Abort

# Results ------------------------------------------------------------------------------------


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """An unfinished object is there.

    ``held`` are the parts that the destination lists for it; None where it can't list them, so
    that each must be proved by reading. ``finished`` is set where the object already stands
    complete, and ours, under its final name: all that is left is :class:`Finish`.
    """

    reference: str
    held: tuple[HeldPart, ...] | None = ()
    finished: bool = False
    traits: Traits | None = None
    """What the destination is known to do, where that matters; worth remembering."""


class PartStored(msgspec.Struct, frozen=True, kw_only=True, tag="part_stored"):
    """The part is there."""

    part: StoredPart
    seconds: float = 0.0
    throttled: bool = False
    """Whether the destination asked to be sent less, and took it in the end."""


class PartProved(msgspec.Struct, frozen=True, kw_only=True, tag="part_proved"):
    """What :class:`Prove` found: the part, or None where it must be sent again."""

    part: StoredPart | None


class Compared(msgspec.Struct, frozen=True, kw_only=True, tag="compared"):
    """Whether the part still has the plaintext that it had."""

    same: bool


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The object stands under its final name, verified."""

    stored: StoredObject


class WholeStored(msgspec.Struct, frozen=True, kw_only=True, tag="whole_stored"):
    """Likewise, with the plaintext's digest (hex)."""

    stored: StoredObject
    digest: str
    throttled: bool = False


class Digested(msgspec.Struct, frozen=True, kw_only=True, tag="digested"):
    """The plaintext's digest, hex."""

    digest: str


class Aborted(msgspec.Struct, frozen=True, kw_only=True, tag="aborted"):
    """Nothing unfinished is left."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The job failed with a code of the contract."""

    code: str
    message: str
    throttled: bool = False
    """Whether the destination asks to be sent less."""
    retry_after: float | None = None
    """Seconds for which it wants to be left alone; None where it doesn't say."""


Result = (
    Begun
    | PartStored
    | PartProved
    | Compared
    | Finished
    | WholeStored
    | Digested
    | Aborted
    | Failed
)


class JobFrame(msgspec.Struct, frozen=True):
    """A job on the wire, with the number that its result will carry."""

    id: int
    job: Job


class ResultFrame(msgspec.Struct, frozen=True):
    """A result on the wire."""

    id: int
    result: Result
