"""The error tree. Each class carries its code of the contract and whether trying again may help."""

from __future__ import annotations

from typing import ClassVar


class DropoffError(Exception):
    """Anything that dropoffd reports with a code.

    The message is for operators and for the REST API: it names what was found and what was
    expected, and never holds a secret.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The text without the code."""
        return str(self)


class SourceError(DropoffError):
    """The received file can't be used as it is."""


class SourceUnsafeError(SourceError):
    """A path that leaves the upload directory, or something that is no plain file with one link."""

    code = "source_unsafe"


class SourceChangedError(SourceError):
    """The file is shorter or longer than it should be, or was replaced or changed meanwhile."""

    code = "source_changed"


class SourceMissingError(SourceError):
    """The file is gone."""

    code = "source_missing"


class SourceUnavailableError(SourceError):
    """The machine can't read it now: a file system that isn't mounted, a failing disk."""

    code = "source_unavailable"
    retryable = True


class RecipientError(DropoffError):
    """A recipient's key of the wrong kind or size, a low-order point, or no recipient at all."""

    code = "recipient_invalid"


class EnvelopeError(DropoffError):
    """Something that should be decrypted can't be: wrong key, damaged or cut short."""

    code = "envelope_invalid"


class ReceiptError(DropoffError):
    """A file that is no receipt, or one that can't be checked with what is installed here."""

    code = "receipt_invalid"


class DestinationError(DropoffError):
    """A destination did not take what it was given."""


class DestinationRefusedError(DestinationError):
    """The destination said no: credentials, bucket, quota, key. Trying again does not help."""

    code = "destination_refused"


class DestinationUnreachableError(DestinationError):
    """The destination is away, slow, throttling or failing. Trying again later may help.

    ``throttled`` says that it is up and asks to be sent less, and ``retry_after`` for how many
    seconds it wants to be left alone; None where it doesn't say.
    """

    code = "destination_unreachable"
    retryable = True

    def __init__(
        self, message: str = "", *, throttled: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.retry_after = retry_after


class VerificationError(DestinationError):
    """What the destination holds is not what was sent."""

    code = "verification_failed"


class ForgottenError(DestinationError):
    """The destination no longer knows an unfinished object: the delivery starts over."""

    code = "destination_forgot"
    retryable = True


class WorkerLostError(DropoffError):
    """The worker process that held the job ended. The job is safe to repeat."""

    code = "worker_lost"
    retryable = True


def of_code(
    code: str, message: str, *, throttled: bool = False, retry_after: float | None = None
) -> DropoffError:
    """The error that another process told of by its code; a plain one for a code not known."""
    kind = subclasses(DropoffError).get(code, DropoffError)
    if issubclass(kind, DestinationUnreachableError):
        return kind(message, throttled=throttled, retry_after=retry_after)
    return kind(message)


def subclasses(root: type[DropoffError]) -> dict[str, type[DropoffError]]:
    """Every class below ``root`` that has a code of its own, by that code."""
    found: dict[str, type[DropoffError]] = {}
    for child in root.__subclasses__():
        if "code" in child.__dict__:
            found[child.code] = child
        found.update(subclasses(child))
    return found
