"""The service's own branches of the error tree in :mod:`pipeline.errors`."""

from __future__ import annotations

from pipeline.errors import DropoffError


class ConfigError(DropoffError):
    """config.toml or a secret can't be used. The message names file, key and what is expected."""

    code = "config_invalid"


class InfoError(DropoffError):
    """An ``.info`` file that is empty, torn, too large, not JSON, or of another shape."""

    code = "info_invalid"


class SpoolError(DropoffError):
    """A spool file of a shape that no hook writes."""

    code = "spool_invalid"


class StudyMissingError(DropoffError):
    """The upload names no study, or something that is not a UUID."""

    code = "study_missing"


class StudyRefusedError(DropoffError):
    """The study is unknown or closed, or the upload is over its limit.

    ``status`` is the HTTP status to answer the tus client with (4xx).
    """

    code = "study_refused"

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class PlanError(DropoffError):
    """A plan of the wrong shape, an unknown destination, or an endpoint that isn't allowed."""

    code = "plan_invalid"


class ApiUnreachableError(DropoffError):
    """The REST API is away, slow, or answers with something that can't be trusted or understood.

    ``retry_after`` is how long it asked to be left alone, in seconds; None where it didn't say.
    ``undone`` is for a request that certainly had no effect: it never left, or was answered by
    "not now". Otherwise it may have been taken, and the answer lost.
    """

    code = "api_unreachable"
    retryable = True

    def __init__(
        self, message: str, retry_after: float | None = None, *, undone: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.undone = undone


class StoppingError(DropoffError):
    """The service stops, and takes up nothing more."""

    code = "stopping"
    retryable = True


class ApiRefusedError(DropoffError):
    """The REST API said no (4xx); trying the same again does not help."""

    code = "api_refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AmqpError(DropoffError):
    """The broker of rustus' AMQP hooks is away, or doesn't let us do what we need to."""

    code = "amqp_unreachable"
    retryable = True


class StateFullError(DropoffError):
    """No space is left for the journal."""

    code = "state_full"
    retryable = True


class NotFoundError(DropoffError):
    """Nothing matches what was asked for."""

    code = "not_found"


class ConflictError(DropoffError):
    """The upload is not in a state in which that can be done."""

    code = "conflict"
