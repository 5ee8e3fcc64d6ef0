"""HAWK's arithmetic, held against mohawk's on either side."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

import mohawk.exc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mohawk import Receiver, Sender

from daemon.broker.guard import Admission, Guard, UnauthorizedError
from daemon.broker.hawk import AnswerNotSignedError, Signer
from daemon.broker.mac import HawkError, attributes_of, place_of

KEY, SECRET = "some key", "some secret"
CREDENTIALS = {"id": KEY, "key": SECRET, "algorithm": "sha256"}
NO_SKEW = 1e9

bodies = st.binary(max_size=200)
types = st.sampled_from(["", "application/json", "Application/JSON; charset=utf-8", " text/plain "])
urls = st.builds(
    lambda scheme, host, path, query: f"{scheme}://{host}/{path}{query}",
    st.sampled_from(["http", "https"]),
    st.sampled_from(["api.example.org", "API.example.org:8443", "127.0.0.1:1", "[::1]:80"]),
    st.text("abc/%20.-_~", max_size=20).map(lambda path: path.lstrip("/")),
    st.sampled_from(["", "?a=b", "?a=b&c=%26?d"]),
)
methods = st.sampled_from(["GET", "POST", "post"])


def credentials(_: object = None) -> dict[str, str]:
    return dict(CREDENTIALS)  # mohawk changes what it is given


def guard() -> Guard:
    return Guard(KEY, SECRET, clock=time.time)


@given(methods, urls, bodies, types, bodies, types)
def test_what_we_sign_mohawk_takes_and_we_take_its_answer(
    method: str, url: str, body: bytes, kind: str, answer: bytes, answer_kind: str
) -> None:
    signature = Signer(KEY, SECRET).sign(method, url, body, kind, int(time.time()))
    receiver = Receiver(
        credentials,
        signature.header,
        url,
        method,
        content=body,
        content_type=kind,
        seen_nonce=lambda *_: False,
    )
    signed = receiver.respond(content=answer, content_type=answer_kind)
    signature.verify(signed, answer, answer_kind)
    with pytest.raises(AnswerNotSignedError):
        signature.verify(signed, answer + b"!", answer_kind)


@given(methods, urls, bodies, types, bodies, types, st.sampled_from([{}, {"app": "a", "dlg": "d"}]))
def test_what_mohawk_signs_we_take_and_it_takes_our_answer(
    method: str,
    url: str,
    body: bytes,
    kind: str,
    answer: bytes,
    answer_kind: str,
    more: dict[str, str],
) -> None:
    sender = Sender(
        credentials(), url, method, content=body, content_type=kind, ext="some ext", **more
    )
    header = sender.request_header
    admission = guard().admit(header, method, ["http://[", url], body, kind)
    sender.accept_response(
        admission.sign(answer, answer_kind),
        content=answer,
        content_type=answer_kind,
        timestamp_skew_in_seconds=NO_SKEW,
    )
    for wrong in ({"body": body + b"!"}, {"url": url + "x"}, {"method": "PUT"}):
        changed = {"method": method, "url": url, "body": body, **wrong}
        with pytest.raises(UnauthorizedError):
            admit(header, changed, kind)


def admit(header: str, of: Mapping[str, object], kind: str) -> Admission:
    body = of["body"]
    assert isinstance(body, bytes)
    return guard().admit(header, str(of["method"]), [str(of["url"])], body, kind)


def test_a_body_s_hash_may_be_missing_only_where_there_is_no_body() -> None:
    url = "http://localhost/"
    for body, kind in [(b"", ""), (b"x", ""), (b"", "text/plain")]:
        sender = Sender(credentials(), url, "GET", always_hash_content=False)
        assert "hash=" not in sender.request_header
        if body or kind:
            with pytest.raises(UnauthorizedError):
                guard().admit(sender.request_header, "GET", [url], body, kind)
        else:
            guard().admit(sender.request_header, "GET", [url], body, kind)


@given(st.text(max_size=60).map(lambda text: f"Hawk {text}") | st.text(max_size=20))
def test_a_header_that_mohawk_does_not_understand_we_do_not_either(header: str) -> None:
    try:
        ours = attributes_of(header)
    except HawkError:
        return
    assert ours == mohawk.util.parse_authorization_header(header)


@given(
    st.dictionaries(
        st.sampled_from(["id", "ts", "nonce", "mac", "hash", "ext", "app", "dlg", "error", "tsm"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='\\"')),
    )
)
def test_a_header_that_mohawk_understands_we_do_too(said: dict[str, str]) -> None:
    header = "Hawk " + ", ".join(f'{name}="{value}"' for name, value in said.items())
    assert attributes_of(header) == mohawk.util.parse_authorization_header(header) == said


@pytest.mark.parametrize(
    "header",
    [
        'Hawk id="a", id="a"',
        'Hawk id="a", other="b"',
        'Hawk id="a\\"b"',
        'Hawk id="ä"',
        'Hawk id="a" nonsense',
        "Basic abc",
        "Hawk",
        f'Hawk id="{"a" * 5000}"',
    ],
)
def test_a_header_that_says_anything_else_is_refused(header: str) -> None:
    with pytest.raises(HawkError):
        attributes_of(header)
    with pytest.raises((mohawk.exc.HawkFail, ValueError)):
        mohawk.util.parse_authorization_header(header)


@pytest.mark.parametrize("url", ["", "/only/a/path", "http://", "ftp://host/", "http://host:x/"])
def test_what_is_no_url_of_a_host_has_no_place(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        place_of(url)


def test_each_try_has_a_nonce_of_its_own() -> None:
    signer = Signer(KEY, secrets.token_hex())
    headers = {signer.sign("GET", "http://localhost/", b"", "", 1).header for _ in range(100)}
    assert len(headers) == 100
