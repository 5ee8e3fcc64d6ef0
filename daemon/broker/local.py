"""Studies that the config answers, without the REST API."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.broker.plans import check_distinct
from daemon.errors import PlanError, StudyRefusedError
from daemon.plan import Announcing, Plan, PlannedDestination
from daemon.settings import Destination, Study


class LocalStudies:
    """The studies of the config as plans."""

    def __init__(
        self, studies: Mapping[str, Study], destinations: Mapping[str, Destination]
    ) -> None:
        self._studies = studies
        self._destinations = destinations

    def __contains__(self, study: str) -> bool:
        """Whether the config answers for it."""
        return study.lower() in self._studies

    def check(self, announcing: Announcing) -> None:
        """Raise StudyRefusedError where the study is closed or the upload over its limit."""
        study = self._open(announcing.study)
        limit = study.max_size
        if limit is not None and announcing.size is not None and announcing.size > limit:
            raise StudyRefusedError(f"Uploads to study {study.id} may have {limit} bytes.", 413)

    def plan(self, study: str) -> Plan:
        """The study's plan. Raises StudyRefusedError where it is closed, PlanError."""
        known = self._open(study)
        planned = tuple(self._resolved(name) for name in known.destinations)
        if not planned:
            raise PlanError(f"study {known.id} has no destinations in the configuration")
        check_distinct(planned)
        return Plan(
            study=known.id,
            max_size=known.max_size,
            encrypt=known.encrypt,
            recipients=known.recipients,
            destinations=planned,
        )

    def _open(self, study: str) -> Study:
        known = self._studies.get(study.lower())
        if known is None:
            raise StudyRefusedError(f"Study {study} is not known.", 404)
        if not known.open:
            raise StudyRefusedError(f"Study {study} is closed.", 403)
        return known

    def _resolved(self, name: str) -> PlannedDestination:
        destination = self._destinations.get(name)
        if destination is None:
            raise PlanError(f"destination {name!r} is not in the configuration")
        return PlannedDestination(spec=destination.spec, path=destination.path)
