"""A shop of Django, REST framework and hawkrest that takes uploads; a program of its own.

    python hawkrest_app.py OPTIONS.json

Options: key, secret, plans, clock_offset (seconds that its clock is ahead), report_status (204:
the answer that makes hawkrest fail after the view has run). Ids are integers, as Django's are.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

OPTIONS: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())


def shift_clock(offset: float) -> None:
    """Let this process live at another time: mohawk, waitress and Django all ask here."""
    now, split = time.time, time.gmtime
    time.time = lambda: now() + offset
    time.gmtime = lambda seconds=None: split(time.time() if seconds is None else seconds)


shift_clock(OPTIONS.get("clock_offset", 0.0))

import django  # noqa: E402 -- after the clock is set
from django.conf import settings  # noqa: E402 -- likewise

settings.configure(
    DEBUG=False,
    SECRET_KEY="of the tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    MIDDLEWARE=["hawkrest.middleware.HawkResponseMiddleware"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
    HAWK_CREDENTIALS={
        OPTIONS["key"]: {"id": OPTIONS["key"], "key": OPTIONS["secret"], "algorithm": "sha256"}
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["hawkrest.HawkAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    },
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402 -- Django must be set up
from django.http import HttpRequest, JsonResponse  # noqa: E402 -- likewise
from django.urls import path  # noqa: E402 -- likewise
from rest_framework.decorators import api_view  # noqa: E402 -- likewise
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError  # noqa: E402
from rest_framework.response import Response  # noqa: E402 -- likewise
from waitress.server import create_server  # noqa: E402 -- after the clock is set

drops: list[dict[str, Any]] = []


def announce(request: Any) -> Any:  # noqa: ANN401 -- Django has no types here
    key = request.headers["Idempotency-Key"]
    for number, drop in enumerate(drops, 1):
        if drop["key"] == key:
            return Response({"id": number})
    if request.data.get("size") is not None and request.data["size"] > 1_000_000:
        raise ValidationError({"size": ["Too large for us."]})
    plan_of(request.data["study"])
    drops.append({"key": key, "announcement": request.data, "reports": [], "repeats": 0})
    return Response({"id": len(drops)}, status=201)


def study(_: Any, name: str) -> Any:  # noqa: ANN401 -- likewise
    return Response({"study": name, **plan_of(name)})


def report(request: Any, number: int) -> Any:  # noqa: ANN401 -- likewise
    drop = drops[number - 1]
    if request.data in drop["reports"]:
        drop["repeats"] += 1
        return Response({})
    drop["reports"].append(request.data)
    status = OPTIONS.get("report_status", 201)
    return Response(None if status == 204 else {}, status=status)


def plan_of(name: str) -> dict[str, Any]:
    plan: dict[str, Any] | None = OPTIONS["plans"].get(name)
    if plan is None:
        raise NotFound(f"No study {name}.")
    if not plan.get("open", True):
        raise PermissionDenied("The study is closed.")
    return plan


def oracle(_: HttpRequest) -> Any:  # noqa: ANN401 -- likewise
    return JsonResponse(drops, safe=False)


urlpatterns = [
    path("shop/uploads/", api_view(["POST"])(announce)),
    path("shop/studies/<str:name>/", api_view(["GET"])(study)),
    path("shop/uploads/<int:number>/reports/", api_view(["POST"])(report)),
    path("_drops", oracle),
]

if __name__ == "__main__":
    server = create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=4)
    sys.stdout.write(json.dumps({"port": server.effective_port}) + "\n")
    sys.stdout.flush()
    server.run()
