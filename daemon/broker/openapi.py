"""The REST API in OpenAPI 3.1, for who writes one of their own."""

from __future__ import annotations

from typing import Any

import daemon
from daemon.settings import ApiPaths

JSON = dict[str, Any]


def description(paths: ApiPaths, base: str) -> JSON:
    """The whole document, with the paths as they are configured below ``base``."""
    uploads = base + paths.announce
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "REST API of data drops",
            "version": daemon.__version__,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": (
                "What dropoffd asks for and reports to. Requests are signed with HAWK, payload "
                "hash included, and 2xx answers carry a Server-Authorization."
            ),
        },
        "security": [{"hawk": []}],
        "paths": {
            uploads: {"post": _announce(), "get": _list()},
            uploads + "{upload}/": {"get": _show(), "parameters": [_upload()]},
            base + paths.study: {"get": _plan(), "parameters": [_study()]},
            base + paths.report: {"post": _report(), "parameters": [_upload()]},
        },
        "components": {
            "securitySchemes": {
                "hawk": {
                    "type": "http",
                    "scheme": "Hawk",
                    "description": "HMAC with SHA-256, payload hash required, 60 s of clock skew.",
                }
            },
            "responses": {
                "Refused": _answer("Refused, and why.", _ref("Problem")),
                "Unauthorized": {
                    **_answer("The signature is missing or does not fit.", _ref("Problem")),
                    "headers": {
                        "WWW-Authenticate": {
                            "description": "`Hawk`, with ts and tsm where the clocks differ.",
                            "schema": {"type": "string"},
                        }
                    },
                },
            },
            "schemas": _schemas(),
        },
    }


def _announce() -> JSON:
    return {
        "operationId": "announce",
        "summary": "Check the study, and announce an upload",
        "parameters": [_key()],
        "requestBody": _content(_ref("Announcement")),
        "responses": {
            "201": _answer("Announced.", _ref("Announced")),
            "200": _answer("Was announced before with the same key.", _ref("Announced")),
            **_refusals("400", "403", "404", "413"),
        },
    }


def _plan() -> JSON:
    return {
        "operationId": "plan",
        "summary": "Who may read a study's uploads, and where they go",
        "responses": {
            "200": _answer("The plan.", _ref("Plan")),
            **_refusals("403", "404", "410"),
        },
    }


def _report() -> JSON:
    return {
        "operationId": "report",
        "summary": "What became of an upload",
        "parameters": [_key()],
        "requestBody": _content(_ref("Report")),
        "responses": {
            "201": _answer("Taken.", {"type": "object"}),
            "200": _answer("An identical repeat.", {"type": "object"}),
            **_refusals("400", "404", "409"),
        },
    }


def _list() -> JSON:
    found = {"uploads": {"type": "array", "items": _ref("Drop")}}
    return {
        "operationId": "list",
        "summary": "Announced uploads, newest first",
        "parameters": [
            _query("study", {"type": "string", "format": "uuid"}),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        ],
        "responses": {
            "200": _answer("The uploads.", _object(found)),
            **_refusals("400"),
        },
    }


def _show() -> JSON:
    return {
        "operationId": "show",
        "summary": "One upload with its reports",
        "responses": {"200": _answer("The upload.", _ref("Drop")), **_refusals("404")},
    }


def _schemas() -> dict[str, JSON]:
    text, size = {"type": "string"}, {"type": ["integer", "null"], "minimum": 0}
    uuid = {"type": "string", "format": "uuid"}
    maybe_text, anything = {"type": ["string", "null"]}, {"type": ["object", "null"]}
    announcement = {
        "study": uuid,
        "filename": text,
        "size": {**size, "description": "null while deferred"},
        "metadata": {"type": "object", "additionalProperties": text},
        "client": text,
        "server": text,
        "tus_id": {**maybe_text, "description": "null in pre-create"},
    }
    states = ["receiving", "received", "processing", "stored", "failed", "terminated"]
    state = {"type": "string", "enum": states}
    report = {
        "report": uuid,
        "sequence": {"type": "integer", "minimum": 0},
        "state": state,
        "at": {"type": "string", "format": "date-time"},
        "tus_id": maybe_text,
        "study": maybe_text,
        "filename": text,
        "size": size,
        "received": size,
        "delivered": {"type": "integer", "minimum": 0},
        "receipt": anything,
        "error": {"oneOf": [_ref("Error"), {"type": "null"}]},
    }
    error = {"code": text, "message": text, "retryable": {"type": "boolean"}}
    named = _object({"use": text, "path": text}, ["use"])
    inline = {
        "type": {"const": "s3"},
        **dict.fromkeys(("endpoint", "bucket", "region", "path"), text),
        **dict.fromkeys(("access_key", "secret_key", "session_token"), text),
        "verify": {"type": "string", "enum": ["checksum", "readback", "size"]},
    }
    needed = ["type", "endpoint", "bucket", "access_key", "secret_key"]
    plan = {
        "study": uuid,
        "open": {"type": "boolean", "default": True},
        "max_size": size,
        "encrypt": {"type": "string", "enum": ["crypt4gh", "age", "none"]},
        "recipients": {"type": "array", "items": text},
        "destinations": {
            "type": "array",
            "minItems": 1,
            "items": {"oneOf": [named, _object(inline, needed)]},
        },
    }
    drop = {
        "id": text,
        "announced_at": {"type": "string", "format": "date-time"},
        **announcement,
        "state": {"oneOf": [state, {"type": "null"}]},
        "reports": {"type": "array", "items": _ref("Report")},
    }
    return {
        "Announcement": _object(announcement, ["study", "filename"]),
        "Announced": _object({"id": {"type": ["string", "integer"]}}, ["id"]),
        "Plan": _object(plan, ["encrypt", "destinations"]),
        "Report": _object(report, ["report", "sequence", "state"]),
        "Error": _object(error, ["code", "message", "retryable"]),
        "Drop": _object(drop, ["id"]),
        "Problem": _object({"detail": text}, ["detail"]),
    }


def _object(properties: JSON, required: list[str] | None = None) -> JSON:
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needed}


def _ref(schema: str) -> JSON:
    return {"$ref": f"#/components/schemas/{schema}"}


def _content(schema: JSON) -> JSON:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(text: str, schema: JSON) -> JSON:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _refusals(*statuses: str) -> JSON:
    unauthorized = {"401": {"$ref": "#/components/responses/Unauthorized"}}
    return unauthorized | {
        status: {"$ref": "#/components/responses/Refused"} for status in statuses
    }


def _key() -> JSON:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "schema": {"type": "string"},
    }


def _query(name: str, schema: JSON) -> JSON:
    return {"name": name, "in": "query", "schema": schema}


def _upload() -> JSON:
    return {"name": "upload", "in": "path", "required": True, "schema": {"type": "string"}}


def _study() -> JSON:
    uuid = {"type": "string", "format": "uuid"}
    return {"name": "study", "in": "path", "required": True, "schema": uuid}
