"""What is asked over a network: the REST API, and each destination."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus

from daemon.broker.client import ApiClient, Probed
from daemon.checks.findings import Finding, error, ok, warning
from daemon.errors import ApiUnreachableError
from daemon.settings import Destination, Settings
from daemon.stores import StoreMemory
from pipeline.destinations.probe import Tried, probed
from pipeline.errors import (
    DestinationRefusedError,
    DestinationUnreachableError,
    VerificationError,
)

MAX_SKEW = 10.0
"""Seconds between our clock and the API's. HAWK ends at 60."""
_PROOFS = {
    "crc64nvme": "CRC-64/NVME that the store counts",
    "md5": "ETags that are MD5s",
    "readback": "objects are read back",
}
_SAYS_NO = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


async def api(settings: Settings) -> Sequence[Finding]:
    """Ask for a study that nobody has: that does no harm, and has to be signed and answered."""
    if not settings.api.url:
        if settings.studies:
            return [ok("api", f"none: only the {len(settings.studies)} studies of config.toml")]
        return [
            error(
                "api",
                "there is no REST API and no study: every upload will be refused",
                'set [api] url or WEBHOOK_URL, or add [studies."UUID"]',
            )
        ]
    async with ApiClient(settings.api, clock=time.time) as client:
        try:
            answer = await client.probe(str(uuid.uuid4()))
        except ApiUnreachableError as failure:
            return [error("api", failure.message, "see [api] url, and whether it is up")]
        found = [_api_answer(answer, unsigned=settings.api.unsigned_answers)]
        if client.skew is not None:
            found.append(_clock(client.skew))
    return found


def _api_answer(answer: Probed, *, unsigned: bool) -> Finding:
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return error(
            "api",
            f"it does not take our signature: {answer.said}",
            "see DROPOFF_API_HAWK_KEY and _SECRET; where a proxy changes the URL, [api] sign_as",
        )
    signed = answer.signed or unsigned
    if answer.status in _SAYS_NO:
        if signed:
            return ok("api", f"it knows us ({answer.status} for a study that nobody has)")
        return warning(
            "api",
            f"it answers {answer.status} without a signature: {answer.said}",
            "see that [api] url is exact: another server may have answered",
        )
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        if signed:
            return ok("api", "it knows us")
        return error(
            "api",
            "its answers are not signed, and won't be believed",
            "have it send Server-Authorization, or set [api] unsigned_answers = true",
        )
    return error(
        "api",
        f"it answers {answer.status}: {answer.said}",
        "see [api] url, [api.paths] and the API's own log",
    )


def _clock(skew: float) -> Finding:
    if abs(skew) <= MAX_SKEW:
        return ok("clock", f"as the API's, to {MAX_SKEW:.0f} s")
    ahead = "behind" if skew > 0 else "ahead of"
    return warning(
        "clock",
        f"ours is {abs(skew):.0f} s {ahead} the API's",
        "run an NTP client; it is allowed for when signing, but logs and receipts have our time",
    )


async def destination(
    name: str, wanted: Destination, memory: StoreMemory | None = None
) -> Sequence[Finding]:
    """Write, read back, delete; and what a store was found to do, which ``memory`` keeps."""
    try:
        found = await probed(wanted.spec, secrets.token_hex(8), _fixed_part(wanted.path))
    except DestinationUnreachableError as failure:
        advice = "see whether it is up, mounted and reachable from here"
        return [error("destination", failure.message, advice, name)]
    except DestinationRefusedError as failure:
        advice = "see its credentials, and what they may do there"
        if wanted.spec.type == "s3":
            advice = "see its bucket, credentials, what they may do there, and what is asked for"
        if wanted.spec.type == "directory":
            advice = "see its owner and permissions"
        return [error("destination", failure.message, advice, name)]
    except VerificationError as failure:
        advice = "it does not keep what it is given: nothing can be trusted to it"
        return [error("destination", failure.message, advice, name)]
    if memory is not None:
        await memory.learn(wanted.spec, found.traits)
    if found.left_out:
        return [
            warning(
                "destination",
                f"only tried in part: {'; '.join(found.left_out)}",
                "where that is not meant, allow it: unfinished and wrong objects are to be removed",
                name,
            )
        ]
    said = "; ".join(("written, read back, deleted", *_abilities(found)))
    if found.lacks:
        advice = "deliveries succeed without: take it out of the destination where that is right"
        return [warning("destination", f"{'; '.join(found.lacks)}; {said}", advice, name)]
    return [ok("destination", said, name)]


def _abilities(found: Tried) -> list[str]:
    """What proves an object at an S3 store, and whether the store minds what stands there."""
    if not found.proof:
        return []
    conditional = found.traits.conditional if found.traits else None
    said = {True: "yes", False: "no, it is looked before each write", None: "not known"}
    return [f"proof: {_PROOFS[found.proof]}", f"conditional writes: {said[conditional]}"]


def _fixed_part(template: str) -> str:
    """The directories that every object's name begins with; credentials may end there."""
    fixed = template.partition("{")[0]
    return fixed[: fixed.rfind("/") + 1]
