"""The studies of config.toml: whether their recipients' keys can be used."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.checks.findings import Finding, error, ok
from daemon.settings import Settings, Study
from pipeline.envelope import by_format
from pipeline.errors import RecipientError


def recipients(settings: Settings) -> Sequence[Finding]:
    """Make an envelope for each study, as for an upload. Blocks."""
    return [_study(study) for study in settings.studies.values()]


def _study(study: Study) -> Finding:
    if study.encrypt == "none":
        return ok("recipients", "stored as it comes, not encrypted", study.id)
    try:
        made = by_format(study.encrypt).make(study.recipients)
    except RecipientError as failure:
        return error(
            "recipients",
            failure.message,
            f"give public keys for {study.encrypt}, as dropoffd keygen makes them",
            study.id,
        )
    return ok("recipients", f"{study.encrypt} for {', '.join(made.fingerprints)}", study.id)
