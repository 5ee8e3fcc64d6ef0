"""What tus servers send to hooks: tusd 2, tusd 1, rustus in each of its formats → one value."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from daemon.errors import InfoError, SpoolError
from daemon.intake.info import Info, RustusUpload, TusdUpload, checked, decode, is_inside

HookName = Literal[
    "pre-create",
    "post-create",
    "post-receive",
    "pre-finish",
    "post-finish",
    "pre-terminate",
    "post-terminate",
]
HOOKS: frozenset[str] = frozenset(HookName.__args__)  # type: ignore[attr-defined]  # a Literal's values

Shape = Literal["tusd", "tusd1", "rustus"]
"""tusd 2, tusd 1 (and rustus' ``tusd`` format, which copies it), rustus."""

MAX_ADDRESS = 200


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A hook that was called."""

    hook: str
    """One of :data:`HOOKS`."""
    shape: Shape
    upload: Info
    client: str
    """Address of the tus client, empty where it isn't told."""


class _TusdRequest(msgspec.Struct, frozen=True, rename="pascal"):
    remote_addr: str = ""


class _TusdBody(msgspec.Struct, frozen=True, rename="pascal"):
    upload: TusdUpload
    http_request: _TusdRequest = msgspec.field(name="HTTPRequest", default_factory=_TusdRequest)


class _RustusRequest(msgspec.Struct, frozen=True):
    remote_addr: str | None = None


class _RustusBody(msgspec.Struct, frozen=True):
    upload: RustusUpload
    request: _RustusRequest = _RustusRequest()


_ABSENT = msgspec.Raw()


class _Envelope(msgspec.Struct, frozen=True):
    hook: Annotated[str, msgspec.Meta(max_length=64)] | None = msgspec.field(
        name="Type", default=None
    )
    event: msgspec.Raw = msgspec.field(name="Event", default=_ABSENT)
    tusd1: msgspec.Raw = msgspec.field(name="Upload", default=_ABSENT)
    rustus: msgspec.Raw = msgspec.field(name="upload", default=_ABSENT)


def parse_event(data: bytes, hook: str | None) -> Event:
    """The meaning of a hook's message.

    ``hook`` is its name where that is known from elsewhere: only tusd 2 writes it into the message,
    and is believed then. Raises SpoolError.
    """
    try:
        event = _parse(data, hook)
        checked(event.upload)
    except InfoError as error:
        raise SpoolError(error.message) from None
    if event.hook not in HOOKS:
        raise SpoolError(f"no hook that is known: {event.hook!r}")
    if event.hook != "pre-create" and not is_inside(event.upload.tus_id):
        raise SpoolError(f"the id {event.upload.tus_id!r} leads out of the upload directory")
    return event


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_TUSD = msgspec.json.Decoder(_TusdBody)
_RUSTUS = msgspec.json.Decoder(_RustusBody)


def _parse(data: bytes, hook: str | None) -> Event:
    envelope = decode(data, _ENVELOPE)
    if envelope.event is not _ABSENT:
        name = envelope.hook or hook or ""
        return _tusd(decode(bytes(envelope.event), _TUSD), name, "tusd")
    if envelope.tusd1 is not _ABSENT:
        return _tusd(decode(data, _TUSD), hook or "", "tusd1")
    if envelope.rustus is not _ABSENT:
        body = decode(data, _RUSTUS)
        client = body.request.remote_addr or ""
        return Event(
            hook=hook or "",
            shape="rustus",
            upload=body.upload.info(),
            client=client[:MAX_ADDRESS],
        )
    raise InfoError("no tus server's hook: it has none of Event, Upload, upload")


def _tusd(body: _TusdBody, hook: str, shape: Shape) -> Event:
    client = body.http_request.remote_addr
    return Event(hook=hook, shape=shape, upload=body.upload.info(), client=client[:MAX_ADDRESS])
