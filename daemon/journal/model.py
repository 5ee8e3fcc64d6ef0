"""What the journal remembers: values, states, and which state may follow which."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

import msgspec

from daemon.plan import Announcing
from pipeline.discreet import Discreet
from pipeline.errors import DropoffError
from pipeline.messages import DestinationSpec, EnvelopeFormat, StoredObject


class UploadState(StrEnum):
    """Where an upload is on its way."""

    RECEIVING = "receiving"
    """Known, and not complete."""
    RECEIVED = "received"
    """Complete on disk; the plan comes next."""
    PROCESSING = "processing"
    """Plan, key and header are fixed; deliveries are on their way."""
    STORED = "stored"
    """Every destination verified it; the report and the source are left."""
    DONE = "done"
    """Reported, source deleted (or kept by configuration), session key erased."""
    FAILED = "failed"
    """Over with an error; the source is kept until ``retry`` or ``discard``."""
    TERMINATED = "terminated"
    """The client took it back, or it never came."""
    DISCARDED = "discarded"
    """An operator gave a failed one up."""


TRANSITIONS: dict[UploadState, frozenset[UploadState]] = {
    UploadState.RECEIVING: frozenset(
        {UploadState.RECEIVED, UploadState.FAILED, UploadState.TERMINATED}
    ),
    UploadState.RECEIVED: frozenset(
        {UploadState.PROCESSING, UploadState.FAILED, UploadState.TERMINATED}
    ),
    UploadState.PROCESSING: frozenset(
        {
            UploadState.STORED,
            UploadState.RECEIVED,  # the source changed under its key: all over again
            UploadState.FAILED,
            UploadState.TERMINATED,
        }
    ),
    UploadState.STORED: frozenset({UploadState.DONE}),
    UploadState.FAILED: frozenset(
        {
            UploadState.RECEIVING,  # retried before it was complete
            UploadState.RECEIVED,
            UploadState.PROCESSING,  # retried with the key, and what is stored already, kept
            UploadState.DISCARDED,
            UploadState.TERMINATED,
        }
    ),
    UploadState.DONE: frozenset(),
    UploadState.TERMINATED: frozenset(),
    UploadState.DISCARDED: frozenset(),
}
"""Every change of state there is. States without a follower are over."""

OVER = frozenset(state for state, following in TRANSITIONS.items() if not following)


class DeliveryState(StrEnum):
    """Where one upload's way to one destination stands."""

    PENDING = "pending"
    """To be started, or to be gone on with (``reference`` is set then)."""
    STORED = "stored"
    FAILED = "failed"


class ReportStatus(StrEnum):
    """Where a report stands in the outbox."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"
    PARKED = "parked"
    """The API refused it (4xx); it is kept and shown."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells that a source is still the same file, unchanged."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Trail(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts that went out before their upload was complete were read from.

    Any other file, or any other boot of the machine, may have another past: such parts are read
    again and compared before anything goes on.
    """

    device: int
    inode: int
    boot: str
    """The kernel's boot id; empty once the file was seen to shrink."""
    sealed: int = 0
    """Any byte before this one may have been sealed and sent, whether or not a part tells of it."""


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it is reported."""

    code: str
    message: str
    retryable: bool


def error_of(error: DropoffError) -> Error:
    """An exception as it is remembered and reported."""
    return Error(code=error.code, message=error.message, retryable=error.retryable)


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that pre-create let through and that has not shown itself yet."""

    id: str
    """Becomes the upload's own id, and ``dropoff_id`` in its metadata where the server takes it."""
    api_id: str | None
    """The REST API's id; None for a study of the config."""
    study: str
    filename: str
    size: int | None
    metadata: dict[str, str]
    tus_id: str | None
    created_at: float


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """A question of pre-create to the broker whose answer may be lost on its way."""

    announcing: Announcing
    tus_id: str | None
    """What the announcement is to be found by, beside its own id."""
    created_at: float

    def answered(self, api_id: str | None) -> Announcement:
        """What there is to remember once the answer came."""
        return Announcement(
            id=self.announcing.key,
            api_id=api_id,
            study=self.announcing.study,
            filename=self.announcing.filename,
            size=self.announcing.size,
            metadata=self.announcing.metadata,
            tus_id=self.tus_id,
            created_at=self.created_at,
        )


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """An upload as intake found it on disk: never a partial, its ``.info`` understood."""

    directory: str
    """The upload directory: half of the identity."""
    tus_id: str
    server: str
    """``tusd``, ``rustus`` or ``tuspyserver``."""
    path: str
    """Of the data, relative to ``directory``, or absolute where the server's Storage.Path is."""
    info_path: str
    """Absolute path of the ``.info`` file."""
    size: int | None
    """None while deferred."""
    received: int
    """Bytes on disk now."""
    complete: bool
    metadata: dict[str, str]
    study: str | None
    """Lower-case UUID, None where the metadata has none or no UUID."""
    filename: str
    """As the client gave it, possibly hostile; never empty."""
    dropoff_id: str | None
    partials: tuple[str, ...] = ()
    """The tus ids that a concatenation was put together from."""
    identity: Identity
    """Of the data file."""


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One upload. Times are seconds since the epoch."""

    id: str
    api_id: str | None
    """The REST API's id; None while unannounced, and for studies of the config."""
    announced: bool
    """Whether the broker was asked and said yes."""
    directory: str
    tus_id: str
    generation: int
    server: str
    path: str
    info_path: str
    study: str | None
    filename: str
    size: int | None
    received: int
    metadata: dict[str, str]
    partials: tuple[str, ...]
    identity: Identity
    trail: Trail | None
    """Set once it is delivered while it is still being received."""
    state: UploadState
    digest: str | None
    """Of the plaintext, ``<name>:<hex>``."""
    restarts: int
    """How often it started over because the source changed."""
    attempts: int
    """Tries to plan it."""
    next_at: float
    """Not to be tried again before."""
    error: Error | None
    created_at: float
    received_at: float | None
    stored_at: float | None
    done_at: float | None


SOME_REFERENCE: Final = "?"
"""Stands for that of an object which may have been begun, and which only the destination knows."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One upload going to one destination."""

    upload: str
    position: int
    """From 0, in the plan's order."""
    destination: DestinationSpec
    """With secrets only while the upload is not over."""
    name: str
    """Key or path inside the destination, suffix included."""
    size: int
    """Bytes of the sealed object."""
    part_size: int
    """Plaintext bytes of each part but the last; 0: in one go."""
    reference: str
    """Of the unfinished object; empty before it is begun, and see :data:`SOME_REFERENCE`."""
    state: DeliveryState
    attempts: int
    started_at: float | None
    """When the first try began."""
    next_at: float
    error: Error | None
    stored: StoredObject | None
    stored_at: float | None


class Envelope(Discreet, frozen=True, kw_only=True):
    """How an upload is sealed, for every destination alike."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"key"})

    format: EnvelopeFormat
    key: bytes
    header: bytes
    fingerprints: tuple[str, ...]
    """Of the recipients' keys, as in the receipt."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All that the way of an upload goes on from, as it was at one moment."""

    upload: Upload
    envelope: Envelope | None = None
    """While it is processing; so are its deliveries."""
    deliveries: tuple[Delivery, ...] = ()
    reported: bool = False
    """Whether it is stored, and the API knows, or there is nobody to report to."""


class NewDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery to be, as the plan resolved it."""

    destination: DestinationSpec
    name: str
    size: int
    part_size: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A message to the REST API."""

    id: str
    """The report's UUID."""
    upload: str
    api_id: str
    sequence: int
    state: str
    body: dict[str, Any]
    """The whole body as it is sent."""
    status: ReportStatus
    attempts: int
    next_at: float
    error: Error | None
    created_at: float
    acknowledged_at: float | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One finished try of a delivery."""

    position: int
    started_at: float
    seconds: float
    sent: int
    """Bytes sent in this try."""
    error: Error | None


class UploadDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One upload whole, for ``dropoffd show``."""

    upload: Upload
    deliveries: tuple[Delivery, ...]
    attempts: tuple[Attempt, ...]
    reports: tuple[Report, ...]
    parts: dict[int, int]
    """Delivery's position to the bytes of the parts it holds."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that something is left to do for."""

    upload: str
    study: str
    size: int
    state: UploadState
    next_at: float
