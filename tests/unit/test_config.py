from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config import load
from daemon.config_file import locate
from daemon.errors import ConfigError
from daemon.settings import MIB, Settings

STUDY = "11111111-2222-4333-8444-555555555555"
HAWK = {"DROPOFF_API_HAWK_KEY": "key", "DROPOFF_API_HAWK_SECRET": "s3cr3t"}
PUBLIC_KEY = "-----BEGIN CRYPT4GH PUBLIC KEY-----\nAAAA\n-----END CRYPT4GH PUBLIC KEY-----\n"

Loads = Callable[..., Settings]
Fails = Callable[..., str]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    def load_text(text: str, **environ: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return load(file, environ)

    return load_text


@pytest.fixture
def fails(loads: Loads) -> Fails:
    def message(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            loads(text, **environ)
        return caught.value.message

    return message


def study(**keys: str) -> str:
    given = {"encrypt": '"none"', "destinations": '["local"]'} | keys
    lines = "\n".join(f"{name} = {value}" for name, value in given.items())
    return (
        f'[destinations.local]\ntype = "directory"\ndirectory = "/srv/store"\n'
        f'[studies."{STUDY}"]\n{lines}\n'
    )


# What is read -------------------------------------------------------------------------------


def test_an_empty_file_has_every_default(loads: Loads) -> None:
    found = loads("")
    assert found.uploads.directory == found.uploads.info_directory == Path("/srv/tusd")
    assert found.uploads.delete_after == 0.0
    assert found.spool == Path("/var/spool/dropoffd")
    assert found.state == Path("/var/lib/dropoffd")
    assert found.hooks.socket == Path("/run/dropoffd/hooks.sock")
    assert found.pipeline.part_size == 16 * MIB
    assert found.pipeline.give_up == 7 * 86400
    assert found.pipeline.workers == len(os.sched_getaffinity(0))
    assert found.destinations == {}


def test_three_lines_are_enough(loads: Loads) -> None:
    found = loads('[uploads]\ndirectory = "/data"\n[api]\nurl = "https://api.example"\n', **HAWK)
    assert found.uploads.directory == Path("/data")
    assert found.api.url == "https://api.example/"


def test_the_projects_own_config_toml_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "config.toml").read_text()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/archive.pub").write_text(PUBLIC_KEY)
    before, mark, example = text.partition('# [studies."')
    shown = before + "\n".join(line.removeprefix("# ") for line in (mark + example).splitlines())
    (tmp_path / "config.toml").write_text(shown)
    found = load(tmp_path / "config.toml", {})
    assert found.studies[STUDY].recipients == (PUBLIC_KEY,)
    assert found.studies[STUDY].max_size == 5 * 1024**4
    assert found.destinations["archive"].spec.bucket == "archive"


def test_the_example_shows_every_key_with_its_default(loads: Loads) -> None:
    example = load(Path(__file__).parents[2] / "config.toml", {})
    plain = loads("")
    for section in ("uploads", "spool", "state", "hooks", "api", "pipeline"):
        assert getattr(example, section) == getattr(plain, section)


@pytest.mark.parametrize(
    ("delete", "seconds"), [("delivered", 0.0), ("never", None), ("2d", 2 * 86400.0)]
)
def test_uploads_are_deleted_as_configured(
    loads: Loads, delete: str, seconds: float | None
) -> None:
    assert loads(f'[uploads]\ndelete = "{delete}"').uploads.delete_after == seconds


def test_relative_paths_start_at_the_file(loads: Loads, tmp_path: Path) -> None:
    found = loads('[uploads]\ndirectory = "up"\n[spool]\ndirectory = "../spool"\n')
    assert found.uploads.directory == tmp_path / "up"
    assert found.spool == tmp_path.parent / "spool"


def test_a_studys_uuid_is_lower_case(loads: Loads) -> None:
    upper = STUDY.replace("4333", "ABCD")
    assert list(loads(study().replace(STUDY, upper)).studies) == [upper.lower()]


def test_recipients_are_files_or_age_recipients(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "team.txt").write_text("# the team\nage1one\n\nage1two\n")
    found = loads(study(encrypt='"age"', recipients='["age1zero", "team.txt"]'))
    assert found.studies[STUDY].recipients == ("age1zero", "age1one", "age1two")


def test_a_crypt4gh_key_file_is_read_whole(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(PUBLIC_KEY)
    found = loads(study(encrypt='"crypt4gh"', recipients='["a.pub"]'))
    assert found.studies[STUDY].recipients == (PUBLIC_KEY,)


def test_the_file_is_found_by_its_variable_then_beside_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('[uploads]\ndirectory = "/here"')
    (tmp_path / "other.toml").write_text('[uploads]\ndirectory = "/other"')
    assert load(None, {}).uploads.directory == Path("/here")
    named = load(None, {"DROPOFFD_CONFIG": "other.toml"})
    assert named.uploads.directory == Path("/other")
    assert named.file == tmp_path / "other.toml"


# What is refused ----------------------------------------------------------------------------


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: can't be read: No such file"):
        load(tmp_path / "gone.toml", {})


def test_a_syntax_error_has_its_line(fails: Fails) -> None:
    assert "config.toml:3: not TOML" in fails('[uploads]\nrescan = "30s"\ndirectory = \n')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[upload]\n", ":1: upload: unknown key; did you mean uploads?"),
        ("\n[uploads]\nresacn = 1\n", ":3: uploads.resacn: unknown key; did you mean rescan?"),
        ("[spool]\nwhatever = 1\n", "spool.whatever: unknown key; known here: directory"),
        ("[uploads]\nrescan = 30\n", ":2: uploads.rescan: found the number 30, expected a dur"),
        ('[uploads]\nrescan = "0s"\n', "uploads.rescan: found no time at all"),
        ('[uploads]\ndelete = "later"\n', 'found "later", expected "delivered", "never", or'),
        ('[uploads]\ndirectory = ""\n', "uploads.directory: missing, expected a path"),
        ('[pipeline]\nmemory = "64"\n', 'found "64", expected a size such as "16MiB"'),
        ("[pipeline]\nfollow = 1\n", "found the number 1, expected true or false"),
        ('[pipeline]\ndigest = "md5"\n', 'found "md5", expected one of "sha256", "blake3"'),
        ("[pipeline]\nworkers = -1\n", "found the number -1, expected at least 0"),
        ('[pipeline]\npart_size = "10MB"\n', 'expected a multiple of "64KiB"'),
        ("pipeline = 3\n", ":1: pipeline: found the number 3, expected a table"),
        ('[hooks]\nlisten = "8121"\n', 'expected "HOST:PORT"'),
        ('[hooks]\nlisten = "::1:8121"\n', 'expected "HOST:PORT"'),
        (f'[hooks]\nsocket = "/{"x" * 107}"\n', "too long for a socket"),
        ('[api]\nurl = "api.example"\n', "api.url: not a web address"),
        ('[api]\nurl = "https://u:p@api.example"\n', "api.url: holds a user or password"),
        ('[api.paths]\nreport = "r/"\n', ":2: api.paths.report: expected {upload} in it"),
        ('[api.paths]\nstudy = "{stud}"\n', "found the placeholder"),
        ('[state]\ndirectory = "/srv/tusd/state"\n', "lies in the upload directory"),
        ("[destinations.a]\n", 'destinations.a.type: missing, expected one of "s3"'),
        ('[destinations.a]\ntype = "ftp"\n', 'found "ftp", expected one of "s3", "directory"'),
        ('[destinations.a]\ntype = "sftp"\nhost = "x"\n', "destinations.a.user: missing"),
        ('[destinations.a]\ntype = "s3"\nregion = "r"\n', "destinations.a.bucket: missing"),
        ('[destinations.a]\ntype = "s3"\nbucket = "b"\n', "destinations.a.endpoint: missing"),
        ('[destinations.a]\ntype = "directory"\n', "destinations.a.directory: missing"),
        (
            '[destinations.a]\ntype = "directory"\ndirectory = "/d"\nbucket = "b"\n',
            ':4: destinations.a.bucket: not used by type = "directory"',
        ),
        (
            '[destinations.a]\ntype = "directory"\ndirectory = "/d"\npath = "../{filename}"\n',
            "expected a relative path",
        ),
        (
            '[destinations.a]\ntype = "directory"\ndirectory = "/d"\npath = "{upload.id}"\n',
            "expected: {filename}, {study}, {tus_id}, {upload}",
        ),
        (study(destinations='["other"]'), '"other" is no destination; known: local'),
        (study(destinations="[]"), "expected at least one destination"),
        (study(encrypt='"age"'), 'recipients: missing, expected for encrypt = "age"'),
        (study(recipients='["gone.pub"]'), "gone.pub: can't be read: No such file"),
        (study(recipients='["ssh-ed25519 AAAA"]'), "found a key's text"),
        (study(max_size='"much"'), ".max_size: found"),
        ('[studies.alpha]\ndestinations = ["x"]\n', "studies.alpha: expected a UUID"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_expected(
    fails: Fails, text: str, expected: str
) -> None:
    assert expected in fails(text)


def test_all_mistakes_are_told_at_once_in_their_order(fails: Fails) -> None:
    told = fails('[pipeline]\nworkers = "two"\n[uploads]\nrescan = 5\nstudykey = "s"\n')
    assert [line.split(": ")[1] for line in told.splitlines()] == [
        "pipeline.workers",
        "uploads.rescan",
        "uploads.studykey",
    ]


def test_a_secret_key_in_place_of_a_public_one_is_not_taken(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "k").write_text("-----BEGIN CRYPT4GH PRIVATE KEY-----\nTOPSECRET\n")
    told = fails(study(encrypt='"crypt4gh"', recipients='["k"]'))
    assert "holds a secret key, expected the public one" in told
    assert "TOPSECRET" not in told


def test_two_names_that_share_their_secrets_are_refused(fails: Fails) -> None:
    table = 'type = "directory"\ndirectory = "/d"\n'
    told = fails(f"[destinations.a-b]\n{table}[destinations.a_b]\n{table}")
    assert "both take DROPOFF_A_B_ACCESS_KEY" in told


def test_control_characters_of_the_file_are_not_repeated(fails: Fails) -> None:
    told = fails('[uploads]\ndelete = "\\u001b[31m"\n["\\u001b[31m"]\n')
    assert "\x1b" not in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "a", "path", "verify"]), inner, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_any_value_in_any_place_is_read_or_refused(tmp_path: Path, value: object) -> None:
    for key in ("uploads", "uploads.directory", "destinations", "destinations.x", "studies.y"):
        file = tmp_path / "config.toml"
        file.write_text(f"{key} = {toml(value)}\n", encoding="utf-8", errors="replace")
        with contextlib.suppress(ConfigError):
            assert load(file, {}).file == file


def toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + "}"
        case _:
            return repr(value)


def test_the_lines_of_keys_are_found() -> None:
    text = '\n[a."b.c"]  # x\nd = 1\n\n[e]\nf.g = 2\n"h i" = 3\n'
    assert locate(text) == {
        ("a", "b.c"): 2,
        ("a", "b.c", "d"): 3,
        ("e",): 5,
        ("e", "f"): 6,
        ("e", "f", "g"): 6,
        ("e", "h i"): 7,
    }
