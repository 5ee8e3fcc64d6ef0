"""``[hooks.amqp]`` of config.toml: what it becomes, and what is said of mistakes in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import config_amqp
from daemon.config import load
from daemon.config_amqp import failed_queue
from daemon.errors import ConfigError
from daemon.settings import Amqp

URL = 'url = "amqp://alice@mq.example"\n'
SECRET = "s3cr3t"

Loads = Callable[..., Amqp | None]
Fails = Callable[..., str]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def load_table(text: str, password: str = SECRET, *, secrets: bool = True) -> Amqp | None:
        file = tmp_path / "config.toml"
        file.write_text(f"[hooks.amqp]\n{text}")
        return load(file, {"DROPOFF_AMQP_PASSWORD": password}, secrets=secrets).hooks.amqp

    return load_table


@pytest.fixture
def fails(loads: Loads) -> Fails:
    def message(text: str, password: str = SECRET) -> str:
        with pytest.raises(ConfigError) as caught:
            loads(text, password)
        return caught.value.message

    return message


def test_without_the_table_no_broker_is_listened_to(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[hooks]\n")
    assert load(tmp_path / "config.toml", {}).hooks.amqp is None


def test_names_default_to_those_of_rustus(loads: Loads) -> None:
    found = loads(URL)
    assert found == Amqp(
        host="mq.example",
        port=5672,
        user="alice",
        password=SECRET,
        virtual_host="/",
        tls=False,
        exchange="rustus",
        exchange_kind="topic",
        routing_key="",
        queues_prefix="rustus",
        celery=None,
    )
    assert failed_queue(found) == "rustus.failed"
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("url", "host", "port", "vhost", "tls"),
    [
        ("amqp://alice@mq:1/", "mq", 1, "/", False),
        ("amqp://alice@mq/%2F", "mq", 5672, "/", False),
        ("amqp://alice@mq/files", "mq", 5672, "files", False),
        ("amqp://alice@mq/a%2Fb%20c", "mq", 5672, "a/b c", False),
        ("amqps://alice@[::1]:7/x", "::1", 7, "x", True),
        ("amqps://alice@mq", "mq", 5671, "/", True),
    ],
)
def test_the_url_tells_the_place(
    loads: Loads, url: str, host: str, port: int, vhost: str, *, tls: bool
) -> None:
    found = loads(f'url = "{url}"\n')
    assert found is not None
    assert (found.host, found.port, found.virtual_host, found.tls) == (host, port, vhost, tls)


@pytest.mark.parametrize(("text", "celery"), [("true", True), ("false", False), ('"auto"', None)])
def test_celery_is_true_false_or_auto(loads: Loads, text: str, *, celery: bool | None) -> None:
    found = loads(f"{URL}celery = {text}\n")
    assert found is not None
    assert found.celery is celery


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "hooks.amqp.url: missing, expected"),
        ('url = "mq.example"', "hooks.amqp.url: not a broker's address"),
        ('url = "https://alice@mq"', "hooks.amqp.url: not a broker's address"),
        ('url = "amqp://alice@mq:99999"', "hooks.amqp.url: not a URL"),
        ('url = "amqp://mq"', "hooks.amqp.url: names no user"),
        ('url = "amqp://alice@mq?heartbeat=0"', "hooks.amqp.url: has a query"),
        ('url = "amqp://alice@"', "hooks.amqp.url: missing, expected a server"),
        ('url = "amqp://alice@a b"', "hooks.amqp.url: holds characters that a URL can't"),
        (URL + 'celery = "maybe"', 'hooks.amqp.celery: found "maybe", expected true, false or'),
        (URL + "celery = 1", "hooks.amqp.celery: found the number 1, expected true, false or"),
        (URL + 'exchange_kind = "queue"', 'expected one of "topic", "direct", "fanout"'),
        (URL + 'exchnge = "x"', "hooks.amqp.exchnge: unknown key; did you mean exchange?"),
        (URL + 'ca_file = "x"', "hooks.amqp.ca_file: unknown key; did you mean ca_bundle?"),
        (URL + 'ca_bundle = "x"', "hooks.amqp.ca_bundle: not used by amqp://"),
        (
            URL.replace("amqp", "amqps") + 'ca_bundle = "x"',
            "no such file, expected CA certificates",
        ),
        (URL + 'queues_prefix = ""', "hooks.amqp.queues_prefix: empty"),
        (URL + 'queues_prefix = "amq.x"', "hooks.amqp.queues_prefix: begins with amq."),
        (URL + 'routing_key = "amq.x"', "hooks.amqp.routing_key: begins with amq."),
        (URL + 'routing_key = "rustus.failed"', "hooks.amqp.routing_key: is the queue of what"),
        (URL + f'exchange = "{"x" * 250}"', "hooks.amqp.exchange: found"),
        (URL + f'password = "{SECRET}"', "expected DROPOFF_AMQP_PASSWORD as a credential"),
        (
            f'url = "amqp://alice:{SECRET}@mq"',
            "hooks.amqp.url: holds a password; secrets are never in config.toml; expected DROP",
        ),
    ],
)
def test_mistakes_are_named_with_what_is_expected(fails: Fails, text: str, expected: str) -> None:
    message = fails(text)
    assert expected in message
    assert SECRET not in message


def test_a_password_that_is_missing_is_named(loads: Loads, fails: Fails) -> None:
    assert "DROPOFF_AMQP_PASSWORD is missing" in fails(URL, "")
    found = loads(URL, "", secrets=False)
    assert found is not None
    assert found.password == ""


def test_a_destination_can_not_share_the_password(fails: Fails) -> None:
    text = f'{URL}[destinations.amqp]\ntype = "directory"\ndirectory = "/srv/store"\n'
    expected = "destinations.amqp: too like hooks.amqp: both take DROPOFF_AMQP_PASSWORD"
    assert expected in fails(text).replace('"', "")


def test_the_library_that_is_missing_is_named(
    fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_amqp, "AMQP_LIBRARY", "no_such_library_here")
    assert "pip install dropoffd[amqp]" in fails(URL)


def test_the_projects_example_is_read(loads: Loads) -> None:
    text = (Path(__file__).parents[2] / "config.toml").read_text()
    _, mark, rest = text.partition("# [hooks.amqp]\n")
    table = rest.partition("\n\n")[0]
    assert mark
    shown = "\n".join(line.removeprefix("# ") for line in table.splitlines())
    found, plain = loads(shown), loads(URL)
    assert found is not None
    assert plain is not None
    assert found.virtual_host == "vhost"
    for field in ("exchange", "exchange_kind", "routing_key", "queues_prefix", "celery"):
        assert getattr(found, field) == getattr(plain, field)
    assert found.durable_exchange
    assert found.durable_queues


def test_the_library_is_not_imported_unless_a_broker_is_configured(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[hooks]\n")
    program = (
        "import sys, daemon.service, daemon.checks.all, daemon.cli.install, daemon.config\n"
        "from pathlib import Path\n"
        "settings = daemon.config.load(Path(sys.argv[1]), {})\n"
        "daemon.checks.all.checks_for(settings, None)\n"
        "daemon.service.Intake(settings, None, None)\n"
        "assert 'aiormq' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "config.toml")], check=True)
