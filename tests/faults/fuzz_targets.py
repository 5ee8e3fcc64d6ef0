"""What is fuzzed: each target takes any bytes, and raises only where something is wrong.

The same targets serve Hypothesis in the ordinary run and atheris for as long as one likes.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, get_args

import msgspec

from daemon import config
from daemon.broker import endpoints, plans
from daemon.broker.clock import retry_after
from daemon.broker.hawk import AnswerNotSignedError, Signer, is_silent
from daemon.broker.text import detail
from daemon.credentials import parse_env
from daemon.errors import ConfigError, InfoError, PlanError, SpoolError, StudyRefusedError
from daemon.intake.amqp_messages import parse_message
from daemon.intake.events import HOOKS, parse_event
from daemon.intake.info import Info, canonical_uuid, parse
from daemon.observe import audit, reading
from daemon.observe.lines import MAX_LINE, encode, harmless
from daemon.observe.summary import By, summarise
from daemon.opening import components
from daemon.processing.names import MAX_FILENAME, object_name, safe_filename
from daemon.settings import Amqp, Destination
from pipeline import receipt
from pipeline.destinations import below, webdav_answers
from pipeline.destinations.retry import LONGEST_WISH, asked_to_wait
from pipeline.destinations.s3_errors import of_body
from pipeline.envelope import by_format
from pipeline.envelope.age_keys import age_secrets
from pipeline.envelope.keyfiles import SecretKey
from pipeline.envelope.keys import crypt4gh_secret
from pipeline.envelope.opening import MAGIC, open_sealed
from pipeline.errors import (
    DestinationUnreachableError,
    EnvelopeError,
    ReceiptError,
    RecipientError,
    SourceUnsafeError,
)
from pipeline.messages import DestinationSpec
from tests.faults.cases import configs, info, keys, names, spool
from tests.faults.cases import plans as said
from tests.faults.cases.records import HEADERS, RECORDS
from tests.faults.cases.sealed import PLAINTEXT, SEALED, SECRET

Target = Callable[[bytes], None]

_KNOWN: Final = {
    "archive": Destination(
        spec=DestinationSpec(name="archive", type="s3", endpoint="https://s3.org", bucket="a")
    )
}
_BYTES_OF_SIZE: Final = 2**63
_QUEUES: Final = tuple(
    Amqp(host="localhost", port=5672, user="u", password="p", celery=celery)
    for celery in (None, True, False)
)


def check_upload(upload: Info) -> None:
    """What everything behind the parsers relies on."""
    assert upload.size is None or 0 <= upload.size < _BYTES_OF_SIZE
    assert upload.offset is None or 0 <= upload.offset < _BYTES_OF_SIZE
    for text in (upload.tus_id, upload.filename, *upload.metadata, *upload.metadata.values()):
        text.encode()
    assert "\0" not in upload.tus_id
    safe = safe_filename(upload.filename)
    assert below.components(safe) == ([], safe)
    assert len(safe.encode()) <= MAX_FILENAME
    with contextlib.suppress(SourceUnsafeError):
        components(upload.tus_id)
        key = object_name(
            "{study}/{tus_id}/{filename}",
            study="s",
            upload="u",
            filename=upload.filename,
            tus_id=upload.tus_id,
        )
        below.components(key)
    check_shown(upload.filename)


def check_shown(text: str) -> None:
    """It does nothing to a terminal or a log."""
    assert harmless(text).isprintable()
    line = encode({"event": text, text: text})
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= MAX_LINE


def fuzz_info(data: bytes) -> None:
    """``.info`` files."""
    with contextlib.suppress(InfoError):
        check_upload(parse(data, "abc"))


def fuzz_spool(data: bytes) -> None:
    """Files of the spool; the first byte picks the hook that its name tells."""
    hooks = [*sorted(HOOKS), "", "evil"]
    hook = hooks[data[0] % len(hooks)] if data else ""
    try:
        event = parse_event(data[1:], hook)
    except SpoolError as error:
        check_shown(error.message)
        return
    assert event.hook in HOOKS
    if event.hook != "pre-create":
        components(event.upload.tus_id)
    check_upload(event.upload)


def fuzz_hooks(data: bytes) -> None:
    """Requests to the hook socket: their ``Hook-Name``, a NUL, and their body."""
    name, _, body = data.partition(b"\0")
    try:
        event = parse_event(body, name.decode("latin-1") or None)
    except SpoolError as error:
        check_shown(error.message)
        return
    assert event.hook in HOOKS
    check_upload(event.upload)
    study = event.upload.study("study")
    assert study == canonical_uuid(study)


def fuzz_plan(data: bytes) -> None:
    """The REST API's answers, and what stores say."""
    try:
        plan = plans.parse(data, said.STUDY, _KNOWN, said.ALLOWED)
    except (PlanError, StudyRefusedError) as error:
        told = error.message
    else:
        told = ""
        for place in plan.destinations:
            inline = place.spec.name != "archive"
            assert not inline or endpoints.allowed(place.spec.endpoint, said.ALLOWED)
            key = object_name(place.path, study="s", upload="u", filename="f", tus_id="t")
            below.components(key)
    assert not told or told.isprintable()
    assert detail(400, data, "application/json").isprintable()
    assert of_body(400, data, {}).message.isprintable()
    with contextlib.suppress(DestinationUnreachableError):
        webdav_answers.resources(data)


def fuzz_metadata(data: bytes) -> None:
    """A client's words: file names, studies, endpoints."""
    text = data.decode("utf-8", "surrogateescape")
    safe = safe_filename(text)
    assert below.components(safe) == ([], safe)
    assert len(safe.encode()) <= MAX_FILENAME
    assert safe_filename(safe) == safe
    check_shown(text)
    study = canonical_uuid(text)
    assert study is None or (study.isascii() and len(study) == 36)
    endpoint = endpoints.parse(text)
    assert endpoint is None or text.isascii()
    with contextlib.suppress(SourceUnsafeError):
        assert not {"", ".", ".."} & set(components(text))


def fuzz_config(data: bytes) -> None:
    """config.toml."""
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        file = Path(directory) / "config.toml"
        file.write_bytes(data)
        told = ""
        try:
            config.load(file, {})
        except ConfigError as error:
            told = error.message
        assert not told or all(line.isprintable() for line in told.splitlines())


def fuzz_keys(data: bytes) -> None:
    """Recipients and secret keys."""
    text = data.decode("utf-8", "surrogateescape")
    for kind in ("crypt4gh", "age"):
        with contextlib.suppress(RecipientError):
            by_format("age" if kind == "age" else "crypt4gh").make((text,))
    with contextlib.suppress(EnvelopeError):
        crypt4gh_secret(text, _no_passphrase)
    with contextlib.suppress(EnvelopeError):
        age_secrets(text)
    for kind in ("crypt4gh", "age"):
        with contextlib.suppress(EnvelopeError):
            layout = by_format("age" if kind == "age" else "crypt4gh")
            layout.open_header(io.BytesIO(data), (bytes(range(1, 33)),), None)


def _no_passphrase() -> bytes:
    # Deriving a key is slow on purpose, and others' code: nothing to be found there.
    raise EnvelopeError("no passphrase")


def fuzz_amqp(data: bytes) -> None:
    """Messages of a broker: a byte that picks the settings, a key, a task, and the body."""
    key, _, rest = data[1:].partition(b"\0")
    task, _, body = rest.partition(b"\0")
    settings = _QUEUES[data[0] % len(_QUEUES) if data else 0]
    headers = {"task": task.decode("utf-8", "surrogateescape")} if task else None
    try:
        event = parse_message(body, key.decode("latin-1"), headers, settings)
    except SpoolError as error:
        check_shown(error.message)
        return
    assert event.hook in HOOKS
    check_upload(event.upload)


def fuzz_headers(data: bytes) -> None:
    """Headers of the REST API's and of stores' answers, and the ``.env`` file."""
    text = data.decode("latin-1")
    pause = retry_after(text, 1e9)
    assert pause is None or 0 <= pause <= 3600
    pause = asked_to_wait(text)
    assert pause is None or 0 <= pause <= LONGEST_WISH
    signer = Signer("key", "secret")
    challenges = text.split("\n")
    is_silent(challenges)
    assert signer.stated_time(challenges) is None
    with contextlib.suppress(AnswerNotSignedError):
        signer.sign("GET", "http://localhost/", b"", "", 1).verify(text, b"", "")
        raise AssertionError("a signature by nobody")
    with contextlib.suppress(ValueError):
        parse_env(text)


def fuzz_records(data: bytes) -> None:
    """Lines of the metrics log and the audit log, and receipts."""
    records = [record for line in data.splitlines() if (record := reading.parse(line))]
    for by in (None, *get_args(By)):
        msgspec.json.encode(summarise(records, by))
    with contextlib.suppress(ReceiptError):
        receipt.to_dict(receipt.parse(data))
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        file = Path(directory) / "audit.jsonl"
        file.write_bytes(data)
        with contextlib.suppress(audit.AuditBrokenError):
            audit.verify(file)


def fuzz_sealed(data: bytes) -> None:
    """Sealed files: nothing opens but what was sealed."""
    for kind in MAGIC.values():
        with contextlib.suppress(EnvelopeError):
            opened = b"".join(map(bytes, open_sealed(io.BytesIO(data), SecretKey(kind, SECRET))))
            # By an edit list a Crypt4GH file may ask for less of it.
            assert opened in PLAINTEXT


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - for speed alone


TARGETS: Final[dict[str, Target]] = {
    "info": fuzz_info,
    "spool": fuzz_spool,
    "hooks": fuzz_hooks,
    "plan": fuzz_plan,
    "metadata": fuzz_metadata,
    "config": fuzz_config,
    "keys": fuzz_keys,
    "amqp": fuzz_amqp,
    "headers": fuzz_headers,
    "records": fuzz_records,
    "sealed": fuzz_sealed,
}

SEEDS: Final[dict[str, list[bytes]]] = {
    "info": [case.text for case in info.CASES],
    "spool": [b"\1" + case.text for case in spool.CASES],
    "hooks": [b"pre-create\0" + case.text for case in spool.CASES],
    "plan": [case.text for case in said.SHAPES],
    "metadata": [
        *(case.said.encode("utf-8", "surrogateescape") for case in names.HOSTILE_METADATA),
        *(case.said.encode("utf-8", "replace") for case in names.FILES),
        *(case.endpoint.encode() for case in said.ENDPOINTS),
    ],
    "config": [case.text for case in configs.CASES],
    "keys": [
        case.text.encode("utf-8", "replace") for case in (*keys.CRYPT4GH, *keys.AGE, *keys.SECRETS)
    ],
    "amqp": [
        *(b"\0rustus.post-finish\0\0" + case.text for case in spool.CASES),
        *(
            b"\1celery\0rustus.post-finish\0[[" + case.text + b'],{},{"callbacks":null}]'
            for case in spool.CASES
        ),
    ],
    "headers": list(HEADERS),
    "records": list(RECORDS),
    "sealed": list(SEALED),
}
"""Where a fuzzer starts from: the written cases."""
