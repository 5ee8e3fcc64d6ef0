"""A study's plan: who may read its uploads, and where they go."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pipeline.messages import DestinationSpec, EnvelopeFormat


class PlannedDestination(msgspec.Struct, frozen=True, kw_only=True):
    """One destination of a plan, resolved: the storage and the template of the name in it."""

    spec: DestinationSpec
    path: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a study's uploads, checked and resolved.

    ``recipients`` are public keys in the text form of their format, and are checked when the
    envelope is made.
    """

    study: str
    max_size: int | None
    encrypt: EnvelopeFormat
    recipients: tuple[str, ...]
    destinations: tuple[PlannedDestination, ...]


class Announcing(msgspec.Struct, frozen=True, kw_only=True):
    """What the REST API is told of an upload before, or when, it comes in."""

    key: str
    """The Idempotency-Key: the announcement's own id."""
    study: str
    filename: str
    size: int | None
    metadata: dict[str, str]
    client: str
    """Address of the tus client, empty where it isn't known."""
    server: str
    """``tusd``, ``rustus``, …"""
    tus_id: str | None


class Broker(Protocol):
    """The REST API and the studies of the config as one."""

    async def announce(self, announcing: Announcing) -> str | None:
        """Check the study, announce the upload, and give the API's id for it.

        None where the study is answered by the config: there is nobody to report to.
        Raises StudyRefusedError (unknown, closed, too large, or the API's own refusal, with its
        status and detail), ApiUnreachableError, PlanError.
        """

    async def plan(self, study: str) -> Plan:
        """The study's plan. Raises StudyRefusedError, PlanError, ApiUnreachableError."""
