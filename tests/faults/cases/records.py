"""What fuzzers of headers, and of the lines of logs and receipts, start from."""

from __future__ import annotations

from typing import Final

HEADERS: Final = (
    b"120",
    b"-1",
    b"9999999999999999999999",
    b"Wed, 21 Oct 2015 07:28:00 GMT",
    b"Wed, 99 Oct 99999 07:28:00 +9999",
    b'Hawk ts="1353832200", tsm="O84R5rWMaXMyIQ5nbOjqjNFXC8MuVDvQZ2kq9OPG5j4=", error="Stale"',
    b"Hawk",
    b"Hawk ",
    b'Hawk mac="XIJRsMl/4oL+nn+vKoeVZPdCHXB4yJkNnBbTbHFZUYE=", hash="f9cDF/TDm7TkYRLnGw="',
    b'Basic realm="x"\nHawk ts="1", tsm="a"\nHawk',
    b"KEY=VALUE\nexport OTHER='quoted' # why\nTHIRD=\"a\\nb\"\n",
    b"KEY='never closed",
    b"no setting",
)

_UNIT: Final = (
    b'{"ts":"2026-01-31T12:00:00.000Z","event":"delivery","outcome":"ok","study":"s",'
    b'"destination":"archive","delivery_seconds":1.5,"sent_bytes":1048576,"attempts":1}'
)
_FAILED: Final = (
    b'{"ts":"2026-01-31T12:00:01.000Z","event":"upload","outcome":"failed",'
    b'"error_code":"source_changed","upload":"u","queued_seconds":0,"size_bytes":7}'
)
_ENTRY: Final = (
    b'{"ts":"2026-01-31T12:00:00.000Z","action":"retry","upload":"u","by":"root",'
    b'"previous":"' + b"0" * 64 + b'"}\n'
)
_RECEIPT: Final = (
    b'{"version":1,"upload":"u","tus_id":"t","study":"s","filename":"f","size":1048576,'
    b'"digest":{"sha256":"00"},"encryption":{"format":"crypt4gh","recipients":["k"],'
    b'"size":1049152},"deliveries":[{"destination":"archive","type":"s3","uri":"s3://a/b",'
    b'"size":1049152,"etag":"e","checksum":{"crc64nvme":"c"},"verified":"checksum",'
    b'"stored_at":"2026-01-31T12:00:00Z"}],"received_at":"2026-01-31T12:00:00Z",'
    b'"stored_at":"2026-01-31T12:00:00Z","software":"dropoffd 0.1.0"}'
)

RECORDS: Final = (
    _UNIT,
    _UNIT + b"\n" + _FAILED + b"\n",
    _FAILED.replace(b'"queued_seconds":0', b'"queued_seconds":' + b"9" * 400),
    _UNIT.replace(b"1048576", b"9" * 400) + b"\n" + _FAILED,
    _UNIT.replace(b"1.5", b"1.7e308") + b"\n" + _UNIT.replace(b"1.5", b"1.7e308"),
    _UNIT[:40],
    _ENTRY,
    _ENTRY + b'{"ts":"2026-01-31T12:00',
    b'{"ts":' + b"[" * 3000,
    b'{"ts":' + b"[" * 200_000,
    _RECEIPT,
    _RECEIPT[:100],
)
