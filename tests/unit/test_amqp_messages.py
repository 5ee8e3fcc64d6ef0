"""Messages of rustus' AMQP hooks, in every shape that its manual and its source know of."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SpoolError
from daemon.intake.amqp_messages import parse_message
from daemon.settings import Amqp

AMQP = Amqp(host="mq", port=1, user="u", password="p")
KEY = "rustus.post-finish"
METADATA = {"filename": "38MB_video.mp4", "meme": "hehe2"}

DEFAULT: dict[str, Any] = {
    "upload": {
        "id": "2b2d",
        "offset": 5,
        "length": 5,
        "path": "/srv/2b2d",
        "created_at": 1641620821,
        "deferred_size": False,
        "metadata": METADATA,
    },
    "request": {
        "URI": "/files",
        "method": "POST",
        "remote_addr": "127.0.0.1",
        "headers": {"host": "localhost:1081", "upload-length": "39729945"},
    },
}
"""As the manual has it."""
FULL: dict[str, Any] = {
    "upload": DEFAULT["upload"]
    | {"is_partial": False, "is_final": False, "parts": None, "storage": "file_storage"},
    "request": DEFAULT["request"],
}
"""As 0.5.10 sends it."""
V2: dict[str, Any] = {
    "upload": FULL["upload"],
    "request": {"uri": "/files", "method": "PATCH", "remote_addr": "127.0.0.1", "headers": {}},
}
NEWER: dict[str, Any] = {
    "upload": FULL["upload"] | {"hash": None, "expires_at": 1},
    "request": V2["request"] | {"http_version": "HTTP/1.1"},
    "hook": "post_finish",
}
"""Whatever 1.1 and later may add is no obstacle."""


def tusd(spelling: str, kind: str = "file_storage") -> dict[str, Any]:
    return {
        "Upload": {
            "ID": "2b2d",
            "Offset": 5,
            "Size": 5,
            "IsFinal": True,
            "IsPartial": False,
            "PartialUploads": None,
            "SizeIsDeferred": False,
            spelling: METADATA,
            "Storage": {"Type": kind, "Path": "/srv/2b2d"},
        },
        "HTTPRequest": {
            "URI": "/files",
            "Method": "POST",
            "RemoteAddr": "127.0.0.1",
            "Header": {"host": ["localhost:1081"]},
        },
    }


SHAPES: dict[str, dict[str, Any]] = {
    "default, of the manual": DEFAULT,
    "default": FULL,
    "v2": V2,
    "newer": NEWER,
    "tusd, of the manual": tusd("Metadata", "filestore"),
    "tusd": tusd("MetaData"),
}


def dumped(event: object, *, celery: bool) -> bytes:
    body = json.dumps(event)
    return (f"[[{body}], {{}}, {{}}]" if celery else body).encode()


@pytest.mark.parametrize("celery", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_understood(shape: str, *, celery: bool) -> None:
    for setting in (None, celery):
        amqp = msgspec.structs.replace(AMQP, celery=setting)
        event = parse_message(dumped(SHAPES[shape], celery=celery), KEY, None, amqp)
        assert (event.hook, event.client) == ("post-finish", "127.0.0.1")
        assert (event.upload.tus_id, event.upload.size) == ("2b2d", 5)
        assert event.upload.metadata == METADATA


@pytest.mark.parametrize("celery", [False, True])
def test_the_other_kind_is_refused_where_only_one_is_expected(*, celery: bool) -> None:
    amqp = msgspec.structs.replace(AMQP, celery=not celery)
    with pytest.raises(SpoolError, match="celery"):
        parse_message(dumped(FULL, celery=celery), KEY, None, amqp)


def test_the_hook_is_told_by_the_routing_key_and_by_celerys_task() -> None:
    body = dumped(FULL, celery=False)
    assert parse_message(body, "rustus.post-terminate", None, AMQP).hook == "post-terminate"
    task = {"task": "rustus.post-create", "id": "1"}
    assert parse_message(body, KEY, task, AMQP).hook == "post-create"
    prefixed = msgspec.structs.replace(AMQP, queues_prefix="a.b")
    assert parse_message(body, "a.b.pre-create", None, prefixed).hook == "pre-create"


@pytest.mark.parametrize("told", [None, {}, {"task": 1}, {"task": "x.post-create"}])
def test_a_hook_that_is_not_told_is_a_hint(told: dict[str, Any] | None) -> None:
    amqp = msgspec.structs.replace(AMQP, routing_key="rustus.post-terminate")
    body = dumped(FULL, celery=False)
    assert parse_message(body, amqp.routing_key, told, amqp).hook == "post-receive"
    assert parse_message(body, "elsewhere", told, AMQP).hook == "post-receive"
    # What is not made yet has no id, by the manual.
    unmade = FULL | {"upload": FULL["upload"] | {"id": "", "path": None}}
    body = dumped(unmade, celery=False)
    assert parse_message(body, amqp.routing_key, told, amqp).hook == "pre-create"


@pytest.mark.parametrize("key", ["rustus.", "rustus.post-mortem", "rustus.failed"])
def test_a_hook_that_nobody_knows_is_refused(key: str) -> None:
    with pytest.raises(SpoolError, match="no hook that is known"):
        parse_message(dumped(FULL, celery=False), key, None, AMQP)


@given(st.binary() | st.binary().map(lambda rest: b"[[" + rest + b"], {}, {}]"))
def test_no_bytes_do_any_harm(body: bytes) -> None:
    with pytest.raises(SpoolError):
        parse_message(body, KEY, None, AMQP)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["id", "offset", "length", "metadata", "storage", "path", "parts"]),
    value=_JSON,
    headers=st.none() | st.dictionaries(st.sampled_from(["task", "id"]), _JSON),
)
def test_odd_values_are_understood_or_refused(
    field: str, value: object, headers: dict[str, Any] | None
) -> None:
    odd = FULL | {"upload": FULL["upload"] | {field: value}}
    try:
        event = parse_message(dumped(odd, celery=True), KEY, headers, AMQP)
    except SpoolError:
        return
    assert event.upload.tus_id
