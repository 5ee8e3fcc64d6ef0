"""Requests to the hook socket and the HTTP listener: a row is a name and the bytes.

None of them may let an upload through.
"""

from __future__ import annotations

import gzip
from typing import Final, NamedTuple

MIB: Final = 1024 * 1024


class RequestCase(NamedTuple):
    """A row."""

    name: str
    raw: bytes


def posted(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A request as a tus server would send it."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close"]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


_V1: Final = ("Hook-Name: pre-create",)
_TUSD1: Final = b'{"Upload":{"ID":"","Size":1,"MetaData":{"study":"%s"}}}'
_BOMB: Final = gzip.compress(bytes(64 * MIB))

CASES: Final = (
    RequestCase("nothing", b"\r\n\r\n"),
    RequestCase("no HTTP", b"hello\r\n\r\n"),
    RequestCase("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)),
    RequestCase("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    RequestCase("NULs", bytes(4096)),
    RequestCase("GET", b"GET /hooks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    RequestCase("no path", posted("/", b"{}")),
    RequestCase("a path that climbs", posted("/hooks/../../etc/passwd", b"{}")),
    RequestCase("a path escaped", posted("/hooks/%2e%2e%2fstatus", b"{}")),
    RequestCase("a path of 10 kB", posted("/hooks/" + "x" * 10_000, b"{}")),
    RequestCase("a path with NUL", posted("/hooks/%00", b"{}")),
    RequestCase("headers of 100 kB", posted("/hooks", b"{}", "X-Long: " + "x" * 100_000)),
    RequestCase("2000 headers", posted("/hooks", b"{}", *(f"X-{n}: y" for n in range(2000)))),
    RequestCase("a header without a colon", posted("/hooks", b"{}", "evil")),
    RequestCase("a header with NUL", posted("/hooks", b"{}", "X: a\0b")),
    RequestCase("two lengths", posted("/hooks/pre-create", b"{}", "Content-Length: 5")),
    RequestCase(
        "a length and chunks",
        posted("/hooks/pre-create", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    ),
    RequestCase("a length below nothing", posted("/hooks/pre-create", b"", length=-1)),
    RequestCase("a length of 2^64", posted("/hooks/pre-create", b"", length=2**64)),
    RequestCase("a body over 1 MiB", posted("/hooks/pre-create", b" " * (MIB + 10))),
    RequestCase("a gzip bomb", posted("/hooks/pre-create", _BOMB, "Content-Encoding: gzip")),
    RequestCase(
        "a deflate bomb", posted("/hooks/pre-create", _BOMB[10:-8], "Content-Encoding: deflate")
    ),
    RequestCase(
        "an encoding of nobody", posted("/hooks/pre-create", b"{}", "Content-Encoding: evil")
    ),
    RequestCase("gzip that is none", posted("/hooks/pre-create", b"{}", "Content-Encoding: gzip")),
    RequestCase("no body", posted("/hooks/pre-create", b"")),
    RequestCase("null", posted("/hooks/pre-create", b"null")),
    RequestCase("a list", posted("/hooks/pre-create", b"[]")),
    RequestCase("an object of nothing", posted("/hooks/pre-create", b"{}")),
    RequestCase("deep lists", posted("/hooks/pre-create", b"[" * 500_000)),
    RequestCase("deep events", posted("/hooks/pre-create", b'{"Event":' * 100_000)),
    RequestCase("UTF-16", posted("/hooks/pre-create", "{}".encode("utf-16"))),
    RequestCase("bytes that are no text", posted("/hooks/pre-create", b'{"Upload":{"ID":"\xff"}}')),
    RequestCase("tusd 1 of no study", posted("/hooks", b'{"Upload":{"ID":"","Size":1}}', *_V1)),
    RequestCase("tusd 1 of a wrong study", posted("/hooks", _TUSD1 % b"../../x", *_V1)),
    RequestCase(
        "tusd 1 of an unknown study",
        posted("/hooks", _TUSD1 % b"99999999-2222-4333-8444-555555555555", *_V1),
    ),
    RequestCase("tusd 1 without its hook", posted("/hooks", b'{"Upload":{"ID":"","Size":1}}')),
    RequestCase(
        "tusd 1 with another hook",
        posted("/hooks", b'{"Upload":{"ID":"","Size":1}}', "Hook-Name: evil"),
    ),
    RequestCase(
        "tusd 1 with a hook in Latin-1",
        posted("/hooks", b'{"Upload":{"ID":"","Size":1}}', "Hook-Name: \xe4"),
    ),
    RequestCase(
        "tusd 1 with a hook of 10 kB",
        posted("/hooks", b'{"Upload":{"ID":"","Size":1}}', "Hook-Name: " + "x" * 8000),
    ),
    RequestCase(
        "tusd 1 with a size in words", posted("/hooks", b'{"Upload":{"ID":"","Size":"1"}}', *_V1)
    ),
    RequestCase(
        "tusd 1 with metadata of lists",
        posted("/hooks", b'{"Upload":{"ID":"","Size":1,"MetaData":{"study":[]}}}', *_V1),
    ),
    RequestCase(
        "tusd 2 of no study",
        posted("/hooks", b'{"Type":"pre-create","Event":{"Upload":{"ID":"","Size":1}}}'),
    ),
    RequestCase(
        "tusd 2 of an unknown hook",
        posted("/hooks", b'{"Type":"evil","Event":{"Upload":{"ID":"","Size":1}}}'),
    ),
    RequestCase(
        "tusd 2 of a type of a number",
        posted("/hooks", b'{"Type":1,"Event":{"Upload":{"ID":"","Size":1}}}'),
    ),
    RequestCase(
        "tusd 2 with a surrogate",
        posted(
            "/hooks",
            b'{"Type":"pre-create","Event":{"Upload":{"ID":"","Size":1,"MetaData":{"study":"\\ud800"}}}}',
        ),
    ),
    RequestCase(
        "tusd 2 with a NUL for an id",
        posted("/hooks", b'{"Type":"pre-create","Event":{"Upload":{"ID":"\\u0000","Size":1}}}'),
    ),
    RequestCase(
        "tusd 2 with two types",
        posted(
            "/hooks", b'{"Type":"pre-create","Type":"evil","Event":{"Upload":{"ID":"","Size":1}}}'
        ),
    ),
    RequestCase(
        "an end of one up", posted("/hooks/post-finish", b'{"Upload":{"ID":"../x","Size":1}}')
    ),
    RequestCase(
        "an end of an id of 10 kB, of no hook",
        posted("/hooks/evil", b'{"Upload":{"ID":"' + b"long/" * 2000 + b'x","Size":1}}'),
    ),
    RequestCase(
        "rustus of no study",
        posted("/hooks", b'{"upload":{"id":"x","offset":0,"length":1},"request":{}}', *_V1),
    ),
    RequestCase(
        "rustus with a list for metadata",
        posted("/hooks", b'{"upload":{"id":"x","offset":0,"length":1,"metadata":[]}}', *_V1),
    ),
    RequestCase(
        "rustus without an offset", posted("/hooks", b'{"upload":{"id":"x","length":1}}', *_V1)
    ),
    RequestCase(
        "rustus with a limit of 2^64",
        posted("/hooks", b'{"upload":{"id":"x","offset":0,"length":18446744073709551616}}', *_V1),
    ),
    RequestCase(
        "rustus on S3",
        posted("/hooks", b'{"upload":{"id":"x","offset":0,"length":1,"storage":"s3"}}', *_V1),
    ),
    RequestCase("an order of no uploads", posted("/control/retry", b"{}")),
    RequestCase("an order of deep lists", posted("/control/discard", b"[" * 100_000)),
    RequestCase(
        "an order of no reason", posted("/control/discard", b'{"uploads":["x"],"reason":" "}')
    ),
    RequestCase(
        "an order with more than is known",
        posted("/control/retry", b'{"failed":true,"force":true}'),
    ),
)
