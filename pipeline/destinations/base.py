"""The border to every storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from pipeline.messages import Begun, HeldPart, StoredObject, StoredPart, Target, Traits
from pipeline.turns import Waiting


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of storage asks of parts, in bytes."""

    min_part: int = 0
    """Each part but the last is at least this long."""
    max_part: int = 5 * 1024**3
    max_parts: int = 10_000
    parts: bool = True
    """False where an object can only be sent in one go."""


class Body(Protocol):
    """Sealed bytes on their way out. Each iteration starts afresh and gives the same bytes."""

    @property
    def size(self) -> int:
        """Bytes that the iteration will give, known ahead."""

    @property
    def crc64nvme(self) -> int:
        """Of all bytes that the last whole iteration gave."""

    @property
    def md5(self) -> bytes | None:
        """Likewise; None unless asked for before."""

    def with_md5(self) -> None:
        """Ask for :attr:`md5` (dear: 1 s for each GB); call before the iteration."""

    async def count(self) -> None:
        """Make all bytes once and send none, so that their sums are known before."""

    def __aiter__(self) -> AsyncIterator[memoryview]:
        """The bytes, about 1 MiB at a time.

        A view is valid until two further ones were taken; who keeps bytes longer copies them.
        """


@runtime_checkable
class Blocking(Protocol):
    """A body that a thread may make, too."""

    @property
    def size(self) -> int:
        """Bytes that there will be."""

    def pieces(self, waiting: Waiting) -> Iterator[memoryview]:
        """The bytes that the iteration gives, for a thread.

        Where it waits for the disk, it does so within ``waiting``. A view is valid until the next
        one is taken.
        """


class Reading(Protocol):
    """A stored object's bytes on their way back, opened and held against what was sealed.

    Both methods raise :class:`~pipeline.errors.VerificationError`.
    """

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes in."""

    def finish(self) -> None:
        """All of them were taken in."""


class Content(Protocol):
    """What a sealed object has to hold, where it is to be proved by reading and opening it."""

    def reading(self) -> Reading:
        """What holds the object's bytes against it, from the first one on."""


class Destination(Protocol):
    """One storage. Every method is safe to repeat with the same arguments.

    Errors: :class:`~pipeline.errors.DestinationRefusedError` where trying again is no use,
    :class:`~pipeline.errors.DestinationUnreachableError` where it is,
    :class:`~pipeline.errors.VerificationError` where the stored bytes are wrong, and
    :class:`~pipeline.errors.ForgottenError` where an unfinished object is no longer known.
    Short disturbances are retried inside; what comes out is worth a longer pause.
    """

    async def begin(self, target: Target, *, stale: bool) -> str:
        """Start an unfinished object, out of sight of readers, and give its reference.

        With ``stale``, first remove unfinished objects under this name that carry the upload's
        id. Refused where another's object stands under the final name.
        """

    async def resume(self, target: Target, reference: str) -> Begun:
        """Find an unfinished object again, with the parts that it holds.

        Raises ForgottenError where it is gone and no finished object of ours stands in its place
        (one that does is found by ``find``).
        """

    async def put_part(
        self, target: Target, reference: str, part: PartPlace, body: Body
    ) -> StoredPart:
        """Send one part. One sent before under that number is replaced."""

    async def prove_part(
        self, target: Target, reference: str, part: PartPlace, body: Body, held: HeldPart | None
    ) -> StoredPart | None:
        """The part as proved to be there already, byte for byte; None where it must be sent."""

    async def finish(
        self,
        target: Target,
        reference: str,
        parts: Sequence[StoredPart],
        content: Content | None = None,
    ) -> StoredObject:
        """Put the object together under its final name, and verify it.

        With ``content`` it is read back and opened, however else it is proved.
        An ambiguous answer is settled by looking. One that is finished already is only verified.
        """

    async def put(
        self, target: Target, body: Body, *, stale: bool, content: Content | None = None
    ) -> StoredObject:
        """Send a small object in one go, and verify it. Never replaces another's object.

        ``content`` as in :meth:`finish`; it may ask ``body`` for what the sending told.
        """

    async def find(self, target: Target) -> StoredObject | None:
        """Our finished object under the final name, unverified; None where there is none.

        Raises DestinationRefusedError where an object that isn't this upload's stands there.
        """

    async def abort(self, target: Target, reference: str) -> None:
        """Remove an unfinished object. Nothing there is fine.

        Without a ``reference``, all that carry the upload's id under this name.
        """

    async def aclose(self) -> None:
        """Close connections."""


@runtime_checkable
class Learning(Protocol):
    """A destination that finds out what its store can do, and needn't do so twice."""

    @property
    def traits(self) -> Traits | None:
        """What was found out or told; None before that."""

    def remember(self, traits: Traits) -> None:
        """Take over what was found out before, unless it is known already."""


@runtime_checkable
class Sweeping(Protocol):
    """A destination where unfinished objects may be left that have a name nobody remembers."""

    async def sweep(self, target: Target) -> None:
        """Remove those that carry the upload's id; all of them, so only when it has none."""


class Readable(Protocol):
    """A finished object, opened to be read from any place on.

    All reads are of the same object: one that is replaced meanwhile is an error, not a mixture.
    """

    @property
    def size(self) -> int:
        """All of its bytes."""

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` to before ``stop``, exactly. Raises DestinationError."""


class PartPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a part stands in the sealed object."""

    number: int
    offset: int
    """First sealed byte."""
    size: int
