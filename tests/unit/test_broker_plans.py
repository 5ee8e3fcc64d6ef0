"""What the REST API may say of a study, and what it may not."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.broker import endpoints, plans
from daemon.errors import PlanError, StudyRefusedError
from daemon.plan import Plan
from daemon.settings import Destination
from pipeline.messages import DestinationSpec

STUDY = "11111111-2222-4333-8444-555555555555"
ARCHIVE = Destination(
    spec=DestinationSpec(name="archive", type="s3", endpoint="https://s3.org", bucket="archive")
)
MIRROR = Destination(
    spec=DestinationSpec(name="mirror", type="directory", directory="/srv/mirror"),
    path="m/{upload}",
)
KNOWN = {"archive": ARCHIVE, "mirror": MIRROR}
ALLOWED = ("https://s3.example.org", "https://gateway.example.org:8443/tenants/a/")
INLINE = {
    "type": "s3",
    "endpoint": "https://s3.example.org",
    "bucket": "study-1",
    "access_key": "AK",
    "secret_key": "very secret",
    "session_token": "token",
}


def answer(**changes: object) -> dict[str, Any]:
    whole = {
        "study": STUDY,
        "open": True,
        "max_size": None,
        "encrypt": "crypt4gh",
        "recipients": ["key"],
        "destinations": [{"use": "archive"}],
    }
    return whole | changes


def inline(**changes: object) -> dict[str, Any]:
    return answer(destinations=[INLINE | {"secret_key": "sk"} | changes])


def parsed(value: object) -> Plan:
    return plans.parse(msgspec.json.encode(value), STUDY, KNOWN, ALLOWED)


def test_a_plan_is_resolved_against_the_configuration() -> None:
    plan = parsed(
        answer(
            max_size=5, destinations=[{"use": "archive"}, {"use": "mirror", "path": "x/{tus_id}"}]
        )
    )
    assert plan.study == STUDY
    assert plan.max_size == 5
    assert plan.recipients == ("key",)
    assert [one.spec for one in plan.destinations] == [ARCHIVE.spec, MIRROR.spec]
    assert [one.path for one in plan.destinations] == ["{study}/{upload}/{filename}", "x/{tus_id}"]


def test_only_encrypt_and_destinations_are_needed_and_more_is_no_harm() -> None:
    plan = parsed({"encrypt": "none", "destinations": [{"use": "mirror"}], "title": "A study"})
    assert plan.max_size is None
    assert plan.recipients == ()
    assert plan.destinations[0].path == "m/{upload}"


def test_a_described_destination_is_taken_where_its_endpoint_is_allowed() -> None:
    (one,) = parsed(inline(path="{upload}", verify="size")).destinations
    assert one.spec.name == "inline-1"
    assert (one.spec.endpoint, one.spec.bucket) == (INLINE["endpoint"], INLINE["bucket"])
    assert (one.spec.access_key, one.spec.secret_key, one.spec.session_token) == (
        "AK",
        "sk",
        "token",
    )
    assert (one.spec.verify, one.path) == ("size", "{upload}")


def test_a_closed_study_is_refused_not_misunderstood() -> None:
    with pytest.raises(StudyRefusedError) as refused:
        parsed(answer(open=False))
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"encrypt": "rot13"},
        {"encrypt": None},
        {"open": "yes"},
        {"max_size": -1},
        {"max_size": 1.5},
        {"max_size": 2**63},
        {"recipients": "key"},
        {"recipients": [1]},
        {"recipients": None},
        {"destinations": []},
        {"destinations": {}},
        {"destinations": ["archive"]},
        {"destinations": [{}]},
        {"destinations": [{"use": "elsewhere"}]},
        {"destinations": [{"use": ""}]},
        {"destinations": [{"use": None, "path": "{upload}"}]},
        {"destinations": [{"use": "archive", "bucket": "other"}]},
        {"destinations": [{"use": "archive", "prefix": "other"}]},
        {"destinations": [{"use": "archive"}, {"use": "archive"}]},
        {"destinations": [{"use": "archive"}] * 101},
        {"study": "22222222-2222-4333-8444-555555555555"},
        {"study": 5},
    ],
)
def test_a_plan_of_another_shape_is_invalid(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        parsed(answer(**changes))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'"x"'])
def test_what_is_no_object_is_invalid(text: bytes) -> None:
    with pytest.raises(PlanError):
        plans.parse(text, STUDY, KNOWN, ALLOWED)


@pytest.mark.parametrize(
    "path",
    [
        "", "/x", "x/", "a//b", "../x", "a/../b", "./x", "{upload}/..", "{other}", "{upload!r}",
        "{upload:>9}", "{upload.x}", "{0}", "{}", "{upload", "a\nb", "a\x00b", "x" * 513,
    ],
)  # fmt: skip
def test_a_path_that_leaves_or_is_unclear_is_invalid(path: str) -> None:
    with pytest.raises(PlanError):
        parsed(answer(destinations=[{"use": "archive", "path": path}]))
    with pytest.raises(PlanError):
        parsed(inline(path=path))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": None},
        {"type": "directory"},
        {"type": "sftp"},
        {"endpoint": "https://evil.org"},
        {"endpoint": ""},
        {"bucket": ""},
        {"bucket": "arn:aws:s3:eu-west-1:123456789012:accesspoint/x"},
        {"bucket": "../other"},
        {"bucket": "a/b"},
        {"region": "evil.org/"},
        {"access_key": ""},
        {"secret_key": ""},
        {"secret_key": "a\r\nb"},
        {"session_token": "a b"},
        {"directory": "/etc"},
        {"verify": "never"},
    ],
)
def test_a_described_destination_of_another_kind_is_invalid(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        parsed(inline(**changes))


@pytest.mark.parametrize(
    "changes", [{"secret_key": ["hush"]}, {"secret_key": "hush hush"}, {"endpoint": "hush"}]
)
def test_a_message_never_holds_a_secret(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as error:
        parsed(inline(**{"access_key": "hush", "session_token": "hush"} | changes))
    assert "hush" not in str(error.value)


def test_equal_places_under_different_paths_are_two_destinations() -> None:
    one, other = {"use": "archive", "path": "a/{upload}"}, {"use": "archive", "path": "b/{upload}"}
    assert len(parsed(answer(destinations=[one, other])).destinations) == 2


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.example.org",
        "https://s3.example.org/",
        "https://S3.EXAMPLE.org:443/deeper",
        "https://gateway.example.org:8443/tenants/a",
        "https://gateway.example.org:8443/tenants/a/b/",
    ],
)
def test_endpoints_below_an_allowed_one_are_allowed(endpoint: str) -> None:
    assert endpoints.allowed(endpoint, ALLOWED)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3.example.org",
        "https://s3.example.org:444",
        "https://s3.example.org.evil.org",
        "https://s3.example.orgevil",
        "https://s3.example.org@evil.org",
        "https://evil.org\\@s3.example.org",
        "https://evil.org#https://s3.example.org",
        "https://evil.org?https://s3.example.org",
        "https://s3.example.org/?x=1",
        "https://s3.example.org\n",
        " https://s3.example.org",
        "https://s3.example.org./",
        "https://gateway.example.org:8443/tenants/ab",
        "https://gateway.example.org:8443/tenants/a/../b",
        "https://gateway.example.org:8443/tenants/a/%2e%2e/b",
        "https://gateway.example.org:8443/tenants",
        "https://gateway.example.org/tenants/a",
        "//s3.example.org",
        "file:///etc/passwd",
    ],
)
def test_endpoints_that_only_look_alike_are_not(endpoint: str) -> None:
    assert not endpoints.allowed(endpoint, ALLOWED)


LOOKS = st.text(alphabet="s3.exampleorg:/@\\?#%2e-h tp", max_size=40)


@given(
    st.one_of(st.text(), LOOKS.map("https://s3.example.org".__add__), LOOKS.map("https://".__add__))
)
def test_whatever_is_allowed_leads_to_an_allowed_host(endpoint: str) -> None:
    if endpoints.allowed(endpoint, ALLOWED):
        parts = urlsplit(endpoint)
        port = parts.port or 443
        assert (parts.scheme, parts.hostname, port) in {
            ("https", "s3.example.org", 443),
            ("https", "gateway.example.org", 8443),
        }
        assert not parts.username
        assert not parts.query
        assert ".." not in parts.path.split("/")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
NAMES = ["study", "open", "max_size", "encrypt", "recipients", "destinations"]
FIELDS = ["use", "path", "type", "endpoint", "bucket", "access_key", "secret_key"]
GOOD = st.sampled_from(["archive", "s3", "crypt4gh", "{upload}", STUDY, "https://s3.example.org"])
DESTINATION = st.dictionaries(st.sampled_from(FIELDS), GOOD | JSON)
VALUE = GOOD | JSON | st.lists(DESTINATION, max_size=3)


@given(st.binary() | st.dictionaries(st.sampled_from(NAMES), VALUE).map(msgspec.json.encode))
def test_any_answer_is_a_plan_or_a_clear_error(text: bytes) -> None:
    try:
        plan = plans.parse(text, STUDY, KNOWN, ALLOWED)
    except (PlanError, StudyRefusedError) as error:
        assert str(error).isprintable()  # noqa: PT017 -- only one of both happens
    else:
        assert plan.destinations
        for one in plan.destinations:
            inline_ = one.spec.name.startswith("inline-")
            assert one.spec in {ARCHIVE.spec, MIRROR.spec} or inline_
            assert not one.path.startswith("/")
            assert ".." not in one.path.split("/")
