"""What the REST API says of a study, checked and resolved into a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from daemon.broker.endpoints import allowed
from daemon.broker.text import clean
from daemon.config_checks import object_path_problem
from daemon.errors import PlanError, StudyRefusedError
from daemon.plan import Plan, PlannedDestination
from daemon.settings import Destination
from pipeline.discreet import Discreet
from pipeline.messages import DestinationSpec, EnvelopeFormat, VerifyMode

MAX_TEMPLATE = 512
DEFAULT_PATH = "{study}/{upload}/{filename}"

# No colon: an ARN in place of a name would lead to another host.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{0,64}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,4096}")

_Text = Annotated[str, msgspec.Meta(max_length=65536)]


class _Destination(Discreet, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either ``use``, or a storage described in full.

    A field that isn't known here is not ignored: it might say where the data must not go.
    """

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"access_key", "secret_key", "session_token"})

    use: _Text | None = None
    path: _Text | None = None
    type: Literal["s3"] | None = None
    endpoint: _Text = ""
    bucket: _Text = ""
    region: _Text = ""
    access_key: _Text = ""
    secret_key: _Text = ""
    session_token: _Text = ""
    verify: VerifyMode | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    encrypt: EnvelopeFormat
    destinations: Annotated[tuple[_Destination, ...], msgspec.Meta(min_length=1, max_length=100)]
    study: str | None = None
    open: bool = True
    max_size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    recipients: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=1000)] = ()


def parse(
    answer: bytes, study: str, destinations: Mapping[str, Destination], inline: Sequence[str]
) -> Plan:
    """The plan of ``study`` from the API's answer.

    Args:
        answer: JSON.
        study: That was asked for.
        destinations: That ``use`` may name.
        inline: The endpoints that the API may describe by itself, as URL prefixes.

    Raises:
        PlanError: The answer has another shape, or names what it may not.
        StudyRefusedError: The study is closed.
    """
    try:
        said = msgspec.json.decode(answer, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"the study's plan is not understood: {clean(str(error))}") from None
    if said.study is not None and said.study.lower() != study.lower():
        raise PlanError("the plan is another study's")
    if not said.open:
        raise StudyRefusedError(f"Study {study} is closed.", 403)
    planned = tuple(
        _inline(place, number, inline)
        if place.use is None
        else _named(place, place.use, number, destinations)
        for number, place in enumerate(said.destinations, start=1)
    )
    check_distinct(planned)
    return Plan(
        study=study,
        max_size=said.max_size,
        encrypt=said.encrypt,
        recipients=said.recipients,
        destinations=planned,
    )


def check_distinct(planned: Sequence[PlannedDestination]) -> None:
    """Raise PlanError where two destinations are one place: objects would replace each other."""
    places = set()
    for one in planned:
        spec = one.spec
        server = (spec.endpoint.rstrip("/"), spec.url.rstrip("/"), spec.host, spec.port)
        place = (spec.type, *server, spec.bucket, spec.directory, one.path)
        if place in places:
            raise PlanError(f"destination {clean(spec.name)!r} is there twice with the same path")
        places.add(place)


def _template(template: str, number: int) -> str:
    """The template of an object's name as it is; PlanError unless it stays inside and is clear."""
    problem = object_path_problem(template)
    if problem or len(template) > MAX_TEMPLATE:
        found = problem or f"expected at most {MAX_TEMPLATE} characters"
        raise PlanError(f"destination {number}: path: {clean(found)}")
    return template


def _named(
    place: _Destination, name: str, number: int, destinations: Mapping[str, Destination]
) -> PlannedDestination:
    if place != _Destination(use=name, path=place.path):
        raise PlanError(f"destination {number}: with `use` it takes nothing else but `path`")
    known = destinations.get(name)
    if known is None:
        raise PlanError(f"destination {clean(name, 100)!r} is not in the configuration")
    path = known.path if place.path is None else _template(place.path, number)
    return PlannedDestination(spec=known.spec, path=path)


def _inline(place: _Destination, number: int, prefixes: Sequence[str]) -> PlannedDestination:
    name = f"inline-{number}"
    if place.type is None:
        raise PlanError(f"destination {number}: expected `use`, or `type` with its fields")
    if not allowed(place.endpoint, prefixes):
        raise PlanError(
            f"destination {number}: its endpoint is not below one of [api] inline_destinations"
        )
    if not _BUCKET.fullmatch(place.bucket) or not _REGION.fullmatch(place.region):
        raise PlanError(f"destination {number}: bucket or region is not one")
    # Without its own it would be reached with credentials that belong to this machine.
    keys = (place.access_key, place.secret_key, place.session_token or "-")
    if not all(_CREDENTIAL.fullmatch(key) for key in keys):
        raise PlanError(f"destination {number}: expected access_key and secret_key of its own")
    spec = DestinationSpec(
        name=name,
        type="s3",
        verify=place.verify or "checksum",
        endpoint=place.endpoint,
        bucket=place.bucket,
        region=place.region,
        access_key=place.access_key,
        secret_key=place.secret_key,
        session_token=place.session_token,
    )
    path = DEFAULT_PATH if place.path is None else _template(place.path, number)
    return PlannedDestination(spec=spec, path=path)
