"""What a store took at an object's creation and forgot: its tags and its lock, set afterwards.

Ceph 16 forgets both where it gets an object in parts. But a store that doesn't know a sub-resource
takes a PUT of it for one of the object's bytes (`rclone serve s3`): so it is asked ahead in a way
that changes nothing, and what stands there is looked at again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pipeline.destinations import s3_options
from pipeline.destinations.s3_client import S3Client
from pipeline.destinations.s3_errors import MissingError, UnsupportedError
from pipeline.destinations.s3_object import StandingObject
from pipeline.errors import DestinationRefusedError, VerificationError
from pipeline.messages import Target

NO_LOCKS: Final = "the bucket keeps no locks, and object_lock asks for one"

Locking = Literal["none", "asked", "always", "unknown"]
"""What a bucket locks: nothing, what asks for it, or every object; ``unknown``: it won't say."""

_WHOLE: Final = 200
_TAGGING: Final = re.compile(rb"\s*(<\?xml[^>]*\?>)?\s*<Tagging[\s>]")


async def make_good(
    client: S3Client,
    target: Target,
    standing: StandingObject,
    look: Callable[[], Awaitable[StandingObject | None]],
) -> None:
    """Give a verified object of ours the tags and the lock that it was created with and lacks.

    Raises:
        DestinationRefusedError: It can't be locked as it has to be.
        VerificationError: The store changed the object instead of its tags or its lock.
    """
    tagged = await _tag(client, target, standing)
    locked = await _lock(client, target, standing)
    if not tagged and not locked:
        return
    now = await look()
    if now is None or (now.size, now.etag) != (standing.size, standing.etag):
        raise VerificationError("the store replaced the object by its tags or its lock")


async def locking(client: S3Client) -> Locking:
    """What the bucket locks."""
    try:
        answer = await client.call("get_object_lock_configuration")
    except (MissingError, UnsupportedError):
        return "none"
    except DestinationRefusedError:
        return "unknown"
    found: dict[str, Any] = answer.get("ObjectLockConfiguration") or {}
    if found.get("ObjectLockEnabled") != "Enabled":
        return "none"
    return "always" if (found.get("Rule") or {}).get("DefaultRetention") else "asked"


async def check_locks(client: S3Client) -> None:
    """Raise DestinationRefusedError where a lock is asked for that can't be had, ahead of it."""
    if s3_options.locks(client.spec) and await locking(client) == "none":
        raise DestinationRefusedError(NO_LOCKS)


async def knows_tags(client: S3Client, name: str, size: int) -> bool:
    """Whether an object of that size has tags that can be asked for, or its bytes answer instead.

    Ceph 16 has nothing at all to say of tags that it forgot.
    """
    status, start = await client.first_bytes("get_object_tagging", name)
    if status != _WHOLE:
        return False
    return _TAGGING.match(start) is not None if start else size > 0


async def _tag(client: S3Client, target: Target, standing: StandingObject) -> bool:
    """Whether something was done about tags.

    An object that may not be tagged afterwards has its tags all the same, where they can't be seen.
    """
    spec = client.spec
    if not spec.tags or standing.tags:
        return False
    tags = [{"Key": name, "Value": s3_options.filled(value, target)} for name, value in spec.tags]
    with contextlib.suppress(DestinationRefusedError):
        if await knows_tags(client, target.name, standing.size):
            await client.call("put_object_tagging", Key=target.name, Tagging={"TagSet": tags})
            return True
    return False


async def _lock(client: S3Client, target: Target, standing: StandingObject) -> bool:
    """Whether something was done about the lock.

    Whoever may see neither lock nor the bucket's rules has to believe that it was kept.
    """
    spec = client.spec
    now = datetime.now(UTC)
    until = None
    if spec.lock_mode:
        until = standing.asked_until or s3_options.locked_until(spec, now)
        same = standing.lock_mode in {spec.lock_mode, "COMPLIANCE"}
        kept = same and standing.locked_until is not None and standing.locked_until >= until
        until = None if kept or until <= now else until
    holds = spec.legal_hold and not standing.held
    if until is None and not holds:
        return False
    known = await locking(client)
    if known == "unknown":
        return False
    if known == "none":
        raise DestinationRefusedError(NO_LOCKS)
    if until is not None:
        retention = {"Mode": spec.lock_mode, "RetainUntilDate": until}
        await client.call("put_object_retention", Key=target.name, Retention=retention)
    if holds:
        hold = {"Status": "ON"}
        await client.call("put_object_legal_hold", Key=target.name, LegalHold=hold)
    return True
