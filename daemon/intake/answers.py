"""What a tus server is answered in pre-create, in the form that it understands."""

from __future__ import annotations

import math

import msgspec
from aiohttp import web

from daemon.intake.events import Event

UNAVAILABLE = "upload service unavailable, try again later"
RETRY_SECONDS = 30
TUSD_LIMIT = 5 * 1024
"""Bytes of an answer that tusd takes over HTTP."""
MAX_TEXT = 500


class Refusal(msgspec.Struct, frozen=True):
    """An upload that may not be."""

    status: int
    """HTTP status for the tus client."""
    text: str
    retry_after: int | None = None
    """Seconds."""

    @property
    def line(self) -> str:
        """One line, harmless to whatever shows it."""
        words = "".join(c if c.isprintable() else " " for c in self.text).split()
        return " ".join(words)[:MAX_TEXT] + "\n"


def unavailable(seconds: float | None = None) -> Refusal:
    """Try again later; nothing is told of the reason, which is ours."""
    retry_after = RETRY_SECONDS if seconds is None else max(1, math.ceil(min(seconds, 3600)))
    return Refusal(503, UNAVAILABLE, retry_after)


class Admission(msgspec.Struct, frozen=True):
    """An upload that may be."""

    dropoff_id: str
    """Of its announcement."""
    tus_id: str | None = None
    """The id that it is to have; None: the server's own."""


def accept(event: Event, admission: Admission, *, over_http: bool) -> web.Response:
    """Let an upload through.

    tusd 2 also takes the announcement's id into the metadata, and gives the upload the id it is to
    have.
    """
    if event.shape != "tusd":
        return web.Response(text="{}", content_type="application/json")
    changes: dict[str, object] = {} if admission.tus_id is None else {"ID": admission.tus_id}
    metadata = event.upload.metadata | {"dropoff_id": admission.dropoff_id}
    body = msgspec.json.encode({"ChangeFileInfo": {**changes, "MetaData": metadata}})
    if over_http and len(body) > TUSD_LIMIT:
        # The announcement is then found by the id that we gave, or by study, name and size.
        body = msgspec.json.encode({"ChangeFileInfo": changes} if changes else {})
    return web.Response(body=body, content_type="application/json")


def refuse(event: Event | None, refusal: Refusal) -> web.Response:
    """Refuse an upload, with the status and text that its client is to see."""
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if event is None or event.shape != "tusd":
        return web.Response(
            status=refusal.status, text=refusal.line, headers=headers, content_type="text/plain"
        )
    answer = {
        "RejectUpload": True,
        "HTTPResponse": {
            "StatusCode": refusal.status,
            "Body": refusal.line,
            "Header": {"Content-Type": "text/plain; charset=utf-8", **headers},
        },
    }
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
