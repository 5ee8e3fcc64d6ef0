"""Texts of config.toml: a row is a name, the bytes, and a part of what is said of it."""

from __future__ import annotations

from typing import Final, NamedTuple


class ConfigCase(NamedTuple):
    """A row. What is said may be in any letters; an empty text means that it is taken."""

    name: str
    text: bytes
    said: str


CASES: Final = (
    ConfigCase("no text", b"\xff\xfe\x00", "UTF-8"),
    ConfigCase("Latin-1", b"# \xe4\n", "UTF-8"),
    ConfigCase("UTF-16", "[uploads]".encode("utf-16"), "UTF-8"),
    ConfigCase("a byte order mark", b"\xef\xbb\xbf[uploads]\n", "not TOML"),
    ConfigCase("NULs", bytes(100), "not TOML"),
    ConfigCase("over 4 MiB", b"#" * (4 * 1024 * 1024 + 1), "too long"),
    ConfigCase("YAML", b"uploads:\n  directory: /srv\n", "not TOML"),
    ConfigCase("JSON", b'{"uploads": {}}', "not TOML"),
    ConfigCase("an open quote", b'[uploads]\ndirectory = "/srv\n', "not TOML"),
    ConfigCase("an open table", b"[uploads\n", "not TOML"),
    ConfigCase("a key twice", b'[uploads]\nrescan = "1s"\nrescan = "2s"\n', "not TOML"),
    ConfigCase("a table of a comment", b"[#uploads]\n", "not TOML"),
    ConfigCase("a key of a comment", b"#a = 1\n", ""),
    ConfigCase("a table twice", b"[uploads]\n[uploads]\n", "not TOML"),
    ConfigCase("a bare control character", b'[uploads]\ndirectory = "a\x01b"\n', "not TOML"),
    ConfigCase("a surrogate", b'[uploads]\ndirectory = "\\ud800"\n', "not TOML"),
    ConfigCase("deep lists", b"a = " + b"[" * 50_000, "deeply"),
    ConfigCase("deep tables", b"a = " + b"{a = " * 50_000, "deeply"),
    ConfigCase("a number of 5000 digits", b"a = " + b"1" * 5000, "digits"),
    ConfigCase("a number of 5000 hex digits", b"[pipeline]\nworkers = 0x" + b"f" * 5000, "digits"),
    ConfigCase("a date of the 13th month", b"a = 1979-13-01\n", "not TOML"),
    ConfigCase("a line of 100,000 blanks", b" " * 100_000 + b"x\n", "not TOML"),
    ConfigCase("a line of 100,000 letters", b"x" * 100_000 + b"\n", "not TOML"),
    ConfigCase("a line of 100,000 quotes", b'"' * 100_000 + b"\n", "not TOML"),
    ConfigCase("a comment of blanks and quotes", b"#" + b' "' * 100_000 + b"\n", ""),
    ConfigCase("an unknown table", b"[evil]\n", "unknown key"),
    ConfigCase("an unknown key", b"[uploads]\ndirektory = 1\n", "did you mean directory"),
    ConfigCase("a key that steers a terminal", b'"\\u001b[2J" = 1\n', "unknown key"),
    ConfigCase("a key with a newline", b'"a\\nb" = 1\n', "unknown key"),
    ConfigCase("a secret", b'[api]\nhawk_secret = "hush"\n', "never in config.toml"),
    ConfigCase(
        "another secret",
        b'[destinations.a]\ntype = "s3"\nbucket = "b"\nsecret_key = "hush"\n',
        "never in config.toml",
    ),
    ConfigCase("a table that is a number", b"uploads = 1\n", "table"),
    ConfigCase("a table that is a list", b"uploads = []\n", "table"),
    ConfigCase("destinations of a list", b"destinations = []\n", "table"),
    ConfigCase("a path of a number", b"[uploads]\ndirectory = 1\n", "text"),
    ConfigCase("an empty path", b'[uploads]\ndirectory = ""\n', "expected a path"),
    ConfigCase("a path with a NUL", b'[state]\ndirectory = "a\\u0000b"\n', "expected a path"),
    ConfigCase("a duration without a unit", b'[uploads]\nrescan = "30"\n', "duration"),
    ConfigCase("a duration of a number", b"[uploads]\nrescan = 30\n", "duration"),
    ConfigCase("a duration below nothing", b'[uploads]\nrescan = "-1s"\n', "duration"),
    ConfigCase("no time at all", b'[uploads]\nrescan = "0s"\n', "no time"),
    ConfigCase(
        "a duration of 5000 digits", b'[uploads]\nrescan = "' + b"9" * 5000 + b's"\n', "duration"
    ),
    ConfigCase("a duration of not a number", b"[uploads]\nrescan = nan\n", "duration"),
    ConfigCase("a duration that never ends", b"[uploads]\nrescan = inf\n", "duration"),
    ConfigCase("a size of 5000 digits", b'[pipeline]\nmemory = "' + b"9" * 5000 + b'B"\n', "size"),
    ConfigCase("a size below nothing", b'[pipeline]\nmemory = "-1MiB"\n', "size"),
    ConfigCase("a size without a unit", b'[pipeline]\nmemory = "64"\n', "size"),
    ConfigCase("a size in Arabic digits", '[pipeline]\nmemory = "٦٤MiB"\n'.encode(), "size"),
    ConfigCase("memory of a byte", b'[pipeline]\nmemory = "1B"\n', "too small"),
    ConfigCase("parts of no whole segments", b'[pipeline]\npart_size = "65537B"\n', "multiple"),
    ConfigCase("parts of nothing", b'[pipeline]\npart_size = "0B"\n', "multiple"),
    ConfigCase("workers below nothing", b"[pipeline]\nworkers = -1\n", "at least"),
    ConfigCase("a hundred billion workers", b"[pipeline]\nworkers = 99999999999\n", "at most"),
    ConfigCase("workers by the half", b"[pipeline]\nworkers = 1.5\n", "whole number"),
    ConfigCase("workers that are true", b"[pipeline]\nworkers = true\n", "whole number"),
    ConfigCase("no deliveries", b"[pipeline]\ndeliveries = 0\n", "at least"),
    ConfigCase(
        "deliveries without end", b"[pipeline]\ndeliveries = 99999999999999999999\n", "at most"
    ),
    ConfigCase("an unknown digest", b'[pipeline]\ndigest = "md5"\n', "sha256"),
    ConfigCase(
        "a socket's path too long", b'[hooks]\nsocket = "/' + b"s" * 200 + b'"\n', "too long"
    ),
    ConfigCase("a listener without a port", b'[hooks]\nlisten = "127.0.0.1"\n', "HOST:PORT"),
    ConfigCase("a listener at port 65536", b'[hooks]\nlisten = "127.0.0.1:65536"\n', "HOST:PORT"),
    ConfigCase(
        "a listener at a port of 5000 digits",
        b'[hooks]\nlisten = "x:' + b"9" * 5000 + b'"\n',
        "HOST:PORT",
    ),
    ConfigCase("a listener with a path", b'[hooks]\nlisten = "127.0.0.1:80/x"\n', "HOST:PORT"),
    ConfigCase("an API of another scheme", b'[api]\nurl = "file:///etc/passwd"\n', "web address"),
    ConfigCase(
        "an API with a password", b'[api]\nurl = "https://me:hush@api.example.org/"\n', "password"
    ),
    ConfigCase(
        "an API with a query", b'[api]\nurl = "https://api.example.org/?token=hush"\n', "query"
    ),
    ConfigCase("an API with a newline", b'[api]\nurl = "https://api.example.org/\\n"\n', "api.url"),
    ConfigCase("an API in a broken bracket", b'[api]\nurl = "http://[::1/"\n', "not a URL"),
    ConfigCase("an API at port 99999", b'[api]\nurl = "http://a:99999/"\n', "not a URL"),
    ConfigCase("a path that climbs", b'[api.paths]\nstudy = "/{study}"\n', "without a leading"),
    ConfigCase("a path elsewhere", b'[api.paths]\nstudy = "https://evil/{study}"\n', "below"),
    ConfigCase("a path without its study", b'[api.paths]\nstudy = "studies/"\n', "{study}"),
    ConfigCase("a path with another field", b'[api.paths]\nstudy = "{study}{x}"\n', "placeholder"),
    ConfigCase("a path with a conversion", b'[api.paths]\nstudy = "{study!r}"\n', "placeholder"),
    ConfigCase("a destination of no type", b"[destinations.a]\n", "type"),
    ConfigCase("a destination of another type", b'[destinations.a]\ntype = "ftp"\n', "type"),
    ConfigCase(
        "a destination's name that steers", b'[destinations."\\u001b[2J"]\ntype = "s3"\n', "name"
    ),
    ConfigCase("a destination's name with a path", b'[destinations."../a"]\ntype = "s3"\n', "name"),
    ConfigCase(
        "a destination named as an inline one",
        b'[destinations.inline-1]\ntype = "s3"\nbucket = "b"\n',
        "name",
    ),
    ConfigCase(
        "an object's path that climbs",
        b'[destinations.a]\ntype = "directory"\ndirectory = "/x"\npath = "../{upload}"\n',
        "path",
    ),
    ConfigCase(
        "an object's absolute path",
        b'[destinations.a]\ntype = "directory"\ndirectory = "/x"\npath = "/{upload}"\n',
        "path",
    ),
    ConfigCase(
        "an object's path with a newline",
        b'[destinations.a]\ntype = "directory"\ndirectory = "/x"\npath = "a\\n{upload}"\n',
        "path",
    ),
    ConfigCase(
        "state in the upload directory",
        b'[uploads]\ndirectory = "/u"\n[state]\ndirectory = "/u/state"\n',
        "upload directory",
    ),
    ConfigCase(
        "a spool that climbs into it",
        b'[uploads]\ndirectory = "/u"\n[spool]\ndirectory = "/u/../u/s"\n',
        "upload directory",
    ),
    ConfigCase(
        "a study that is no UUID", b'[studies.x]\nencrypt = "none"\ndestinations = ["a"]\n', "UUID"
    ),
    ConfigCase(
        "a study of no destination",
        b'[studies."11111111-2222-4333-8444-555555555555"]\nencrypt = "none"\n',
        "destination",
    ),
    ConfigCase(
        "a study of no recipient",
        b'[studies."11111111-2222-4333-8444-555555555555"]\ndestinations = []\n',
        "recipients",
    ),
    ConfigCase(
        "a study with a key's text",
        b'[studies."11111111-2222-4333-8444-555555555555"]\n'
        b'recipients = ["AGE-SECRET-KEY-1HUSH"]\n',
        "key's text",
    ),
    ConfigCase(
        "a study with a device for a key",
        b'[studies."11111111-2222-4333-8444-555555555555"]\nrecipients = ["/dev/null"]\n',
        "public key",
    ),
    ConfigCase(
        "a study with a directory for a key",
        b'[studies."11111111-2222-4333-8444-555555555555"]\nrecipients = ["/"]\n',
        "can't be read",
    ),
)
