from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import load
from daemon.credentials import Credentials, parse_env, variable
from daemon.errors import ConfigError

KEY, SECRET = "DROPOFF_API_HAWK_KEY", "DROPOFF_API_HAWK_SECRET"
WORD = "hunter2-the-secret"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        '[destinations.my-archive]\ntype = "s3"\nbucket = "b"\nendpoint = "https://s3.example"\n'
    )
    return file


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_place_that_has_a_name_wins(tmp_path: Path) -> None:
    env_file = write(tmp_path / ".env", "A=file\nB=file\nC=file\n")
    write(tmp_path / "credentials/A", "credential\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "A": "env", "B": "env"}
    credentials = Credentials(environ, env_file)
    assert [credentials.get(name) for name in "ABCD"] == ["credential", "env", "file", ""]


def test_a_destinations_secrets_are_named_after_it(config: Path) -> None:
    environ = {"DROPOFF_MY_ARCHIVE_ACCESS_KEY": "id", "DROPOFF_MY_ARCHIVE_SECRET_KEY": WORD}
    spec = load(config, environ).destinations["my-archive"].spec
    assert (spec.access_key, spec.secret_key) == ("id", WORD)


def test_the_api_is_named_by_webhook_url_where_the_file_has_none(config: Path) -> None:
    write(config.parent / ".env", f"WEBHOOK_URL=https://api.example/x\n{KEY}=k\n{SECRET}={WORD}\n")
    api = load(config, {}).api
    assert (api.url, api.hawk_key, api.hawk_secret) == ("https://api.example/x/", "k", WORD)


def test_an_api_without_credentials_is_a_mistake(config: Path) -> None:
    with pytest.raises(ConfigError, match=f"{KEY} and {SECRET} missing"):
        load(config, {"WEBHOOK_URL": "https://api.example"})


def test_half_of_a_pair_of_keys_is_a_mistake(config: Path) -> None:
    with pytest.raises(ConfigError, match="expected both DROPOFF_MY_ARCHIVE_ACCESS_KEY and"):
        load(config, {"DROPOFF_MY_ARCHIVE_SECRET_KEY": WORD})


def test_looking_needs_no_secrets(config: Path) -> None:
    write(config.parent / ".env", "A=1", mode=0o644)
    settings = load(config, {"WEBHOOK_URL": "https://api.example"}, secrets=False)
    assert settings.api.hawk_secret == ""


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_an_env_file_that_others_can_use_is_refused(config: Path, mode: int) -> None:
    env_file = write(config.parent / ".env", f"{KEY}={WORD}\n", mode)
    with pytest.raises(ConfigError) as caught:
        load(config, {})
    assert f"chmod 600 {env_file}" in caught.value.message
    assert WORD not in caught.value.message


@pytest.mark.parametrize("mode", [0o620, 0o604, 0o602])
def test_a_credential_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "credentials/A", WORD, mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        Credentials({"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, None).get("A")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600])
def test_a_credential_as_systemd_leaves_it_is_taken(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "credentials/A", f"{WORD}\n", mode)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert Credentials(environ, None).get("A") == WORD


def test_a_directory_in_place_of_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="expected a plain file"):
        Credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)}, None).get("A")


def test_a_secret_in_the_file_is_refused_and_not_repeated(config: Path) -> None:
    config.write_text(f'{config.read_text()}secret_key = "{WORD}"\n')
    with pytest.raises(ConfigError) as caught:
        load(config, {})
    assert "expected DROPOFF_MY_ARCHIVE_SECRET_KEY" in caught.value.message
    assert WORD not in caught.value.message


def test_an_api_url_with_a_secret_is_not_repeated(config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config, {"WEBHOOK_URL": f"https://user:{WORD}@api.example/"})
    assert "WEBHOOK_URL holds a user or password" in caught.value.message
    assert WORD not in caught.value.message


def test_settings_do_not_show_secrets(config: Path) -> None:
    environ = {
        "WEBHOOK_URL": "https://api.example",
        KEY: f"{WORD}-key",
        SECRET: WORD,
        "DROPOFF_MY_ARCHIVE_ACCESS_KEY": f"{WORD}-access",
        "DROPOFF_MY_ARCHIVE_SECRET_KEY": WORD,
    }
    settings = load(config, environ)
    assert settings.api.hawk_secret == WORD
    assert WORD not in repr(settings)
    assert WORD not in f"{settings}"


def test_an_env_file_is_read_as_shells_do() -> None:
    text = """
# a comment
PLAIN=value # comment
export EXPORTED=yes
EMPTY=
HASH=a#b
SINGLE='a "b" \\n $c # d'
DOUBLE="a 'b' \\"c\\"\\n"
SPREAD="one
two"
  SPACED = x y\x20
"""
    assert parse_env(text) == {
        "PLAIN": "value",
        "EXPORTED": "yes",
        "EMPTY": "",
        "HASH": "a#b",
        "SINGLE": 'a "b" \\n $c # d',
        "DOUBLE": "a 'b' \"c\"\n",
        "SPREAD": "one\ntwo",
        "SPACED": "x y",
    }


@pytest.mark.parametrize(
    ("text", "line"), [(f"A=1\n{WORD}\n", 2), (f'\nA="{WORD}\nB=2', 2), (f"1A={WORD}", 1)]
)
def test_a_broken_env_file_is_told_by_line_without_its_content(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line}:") as caught:
        parse_env(text)
    assert WORD not in str(caught.value)


@given(
    st.text(alphabet=st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'"))
)
def test_any_value_survives_single_quotes(value: str) -> None:
    assert parse_env(f"A='{value}'") == {"A": value}


def test_names_of_secrets() -> None:
    assert variable("cold-store_2", "PASSWORD") == "DROPOFF_COLD_STORE_2_PASSWORD"
