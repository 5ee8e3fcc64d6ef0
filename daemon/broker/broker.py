"""The studies of the config and the REST API as one :class:`~daemon.plan.Broker`."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol

from daemon.broker import plans
from daemon.broker.local import LocalStudies
from daemon.errors import ApiRefusedError, ApiUnreachableError, StudyRefusedError
from daemon.plan import Announcing, Plan
from daemon.ports import Clock
from daemon.settings import Settings
from pipeline.errors import DropoffError

KEEP_PLAN = 30.0
"""Seconds that a plan of the API's is good for without asking again."""
MAX_KEPT = 1000


class Api(Protocol):
    """What is asked of the REST API; see :class:`~daemon.broker.client.ApiClient`."""

    async def announce(self, announcing: Announcing) -> str:
        """The API's id for an upload."""

    async def study(self, study: str) -> bytes:
        """A study's plan, JSON."""


class _Kept:
    """A plan that was asked for, and who is asking for it again."""

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        self.plan: Plan | None = None
        self.until = 0.0


class StudyBroker:
    """Studies of the config first, then the REST API, if there is one.

    Args:
        settings: For studies, destinations and ``[api] inline_destinations``.
        api: None where no API is configured.
        clock: Ages kept plans.
    """

    def __init__(self, settings: Settings, api: Api | None, *, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Take studies, destinations and inline destinations from these settings from now on."""
        self._local = LocalStudies(settings.studies, settings.destinations)
        self._destinations = settings.destinations
        self._inline = settings.api.inline_destinations
        self._kept.clear()

    async def announce(self, announcing: Announcing) -> str | None:
        """As :meth:`daemon.plan.Broker.announce`: the API is always asked anew."""
        if announcing.study in self._local:
            self._local.check(announcing)
            return None
        try:
            return await self._asked(announcing.study).announce(announcing)
        except ApiRefusedError as error:
            raise _refusal(error) from None

    async def plan(self, study: str) -> Plan:
        """As :meth:`daemon.plan.Broker.plan`; the API's plans are kept for :data:`KEEP_PLAN`."""
        if study in self._local:
            return self._local.plan(study)
        api = self._asked(study)
        kept = self._kept_for(study)
        async with kept.asking:  # those who want it at the same time ask once
            now = self._clock()
            if kept.plan is not None and now < kept.until <= now + KEEP_PLAN:
                return kept.plan
            try:
                answer = await api.study(study)
            except ApiRefusedError as error:
                raise _refusal(error) from None
            kept.plan = plans.parse(answer, study, self._destinations, self._inline)
            kept.until = now + KEEP_PLAN
            return kept.plan

    def _asked(self, study: str) -> Api:
        if self._api is None:
            raise StudyRefusedError(f"Study {study} is not known.", HTTPStatus.NOT_FOUND)
        return self._api

    def _kept_for(self, study: str) -> _Kept:
        kept = self._kept.pop(study, None) or _Kept()
        self._kept[study] = kept  # the last used stand last
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return kept


def _refusal(error: ApiRefusedError) -> DropoffError:
    """What the API's no means for an upload.

    A 401 is about our signature, not about the upload: no reason to fail it, or to ask its
    sender for a password.
    """
    if error.status == HTTPStatus.UNAUTHORIZED:
        return ApiUnreachableError(
            f"the REST API does not take our HAWK signature: {error}", undone=True
        )
    return StudyRefusedError(error.message, error.status)
