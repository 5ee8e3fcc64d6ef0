"""Files of the hook spool: a row is a name, the file's own name, its bytes, and the code."""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1024 * 1024


class SpoolCase(NamedTuple):
    """A row."""

    name: str
    file: str
    text: bytes
    code: str = "spool_invalid"


_FINISH: Final = "post-finish.1.json"

BAD: Final = (
    SpoolCase("empty", _FINISH, b""),
    SpoolCase("blanks", _FINISH, b"\n\n"),
    SpoolCase("NULs", _FINISH, bytes(1000)),
    SpoolCase("null", _FINISH, b"null"),
    SpoolCase("a list", _FINISH, b"[]"),
    SpoolCase("an empty object", _FINISH, b"{}"),
    SpoolCase("no hook's", _FINISH, b'{"a":1}'),
    SpoolCase("torn", _FINISH, b'{"Type":"post-finish","Event":{"Upload":{"ID":"x"'),
    SpoolCase("torn in a text", _FINISH, b'{"Upload":{"ID":"x'),
    SpoolCase("trailing", _FINISH, b'{"Upload":{"ID":"x","Size":1}} x'),
    SpoolCase("two of them", _FINISH, b'{"Upload":{"ID":"x","Size":1}}\n{"Upload":{"ID":"y"}}'),
    SpoolCase("a byte order mark", _FINISH, b'\xef\xbb\xbf{"Upload":{"ID":"x","Size":1}}'),
    SpoolCase("UTF-16", _FINISH, '{"Upload":{"ID":"x","Size":1}}'.encode("utf-16")),
    SpoolCase("Latin-1", _FINISH, b'{"Upload":{"ID":"\xe4","Size":1}}'),
    SpoolCase("a lone surrogate", _FINISH, b'{"Upload":{"ID":"\\ud800","Size":1}}'),
    SpoolCase("half a million brackets", _FINISH, b"[" * 500_000),
    SpoolCase("deep events", _FINISH, b'{"Event":' * 100_000),
    SpoolCase("deep uploads", _FINISH, b'{"Upload":' * 100_000),
    SpoolCase("over 1 MiB", _FINISH, b'{"Upload":{"ID":"x","Size":1}}' + b" " * MIB),
    SpoolCase("1 MiB of zeros", _FINISH, bytes(MIB + 1)),
    SpoolCase("an event that is a list", _FINISH, b'{"Type":"post-finish","Event":[]}'),
    SpoolCase("an event that is null", _FINISH, b'{"Type":"post-finish","Event":null}'),
    SpoolCase("an event of nothing", _FINISH, b'{"Type":"post-finish","Event":{}}'),
    SpoolCase("an upload that is null", _FINISH, b'{"Upload":null}'),
    SpoolCase("an upload that is a text", _FINISH, b'{"Upload":"x"}'),
    SpoolCase("an upload that is a list", _FINISH, b'{"Upload":[]}'),
    SpoolCase("an upload of nothing", _FINISH, b'{"Upload":{}}'),
    SpoolCase("no id", _FINISH, b'{"Upload":{"Size":1}}'),
    SpoolCase("a null id", _FINISH, b'{"Upload":{"ID":null,"Size":1}}'),
    SpoolCase("an empty id", _FINISH, b'{"Upload":{"ID":"","Size":1}}'),
    SpoolCase("an id of a dot", _FINISH, b'{"Upload":{"ID":".","Size":1}}'),
    SpoolCase("an id of two dots", _FINISH, b'{"Upload":{"ID":"..","Size":1}}'),
    SpoolCase("an id one up", _FINISH, b'{"Upload":{"ID":"../x","Size":1}}'),
    SpoolCase("an id far up", _FINISH, b'{"Upload":{"ID":"../../../../etc/shadow","Size":1}}'),
    SpoolCase("an id that comes back", _FINISH, b'{"Upload":{"ID":"a/../../x","Size":1}}'),
    SpoolCase("an absolute id", _FINISH, b'{"Upload":{"ID":"/etc/shadow","Size":1}}'),
    SpoolCase("an id with two slashes", _FINISH, b'{"Upload":{"ID":"a//b","Size":1}}'),
    SpoolCase("an id that ends in a slash", _FINISH, b'{"Upload":{"ID":"a/","Size":1}}'),
    SpoolCase("an id with a NUL", _FINISH, b'{"Upload":{"ID":"a\\u0000b","Size":1}}'),
    SpoolCase("a size in words", _FINISH, b'{"Upload":{"ID":"x","Size":"1"}}'),
    SpoolCase("a size of less than nothing", _FINISH, b'{"Upload":{"ID":"x","Size":-1}}'),
    SpoolCase(
        "a size of 5000 digits", _FINISH, b'{"Upload":{"ID":"x","Size":' + b"9" * 5000 + b"}}"
    ),
    SpoolCase("a size of 1e400", _FINISH, b'{"Upload":{"ID":"x","Size":1e400}}'),
    SpoolCase("metadata of numbers", _FINISH, b'{"Upload":{"ID":"x","Size":1,"MetaData":{"a":1}}}'),
    SpoolCase(
        "an address of a number",
        _FINISH,
        b'{"Upload":{"ID":"x","Size":1},"HTTPRequest":{"RemoteAddr":1}}',
    ),
    SpoolCase(
        "a request that is a list", _FINISH, b'{"Upload":{"ID":"x","Size":1},"HTTPRequest":[]}'
    ),
    SpoolCase("rustus one up", _FINISH, b'{"upload":{"id":"../x","offset":0,"length":1}}'),
    SpoolCase("rustus, absolute", _FINISH, b'{"upload":{"id":"/x","offset":0,"length":1}}'),
    SpoolCase("rustus without an offset", _FINISH, b'{"upload":{"id":"x","length":1}}'),
    SpoolCase("rustus without an id", _FINISH, b'{"upload":{"offset":0,"length":1}}'),
    SpoolCase(
        "rustus on S3", _FINISH, b'{"upload":{"id":"x","offset":0,"length":1,"storage":"s3"}}'
    ),
    SpoolCase(
        "rustus with a list for a request",
        _FINISH,
        b'{"upload":{"id":"x","offset":0,"length":1},"request":[]}',
    ),
    SpoolCase("an unknown hook", "post-everything.1.json", b'{"Upload":{"ID":"x","Size":1}}'),
    SpoolCase("a hook of another case", "POST-FINISH.1.json", b'{"Upload":{"ID":"x","Size":1}}'),
    SpoolCase("no hook in its name", ".1.json", b'{"Upload":{"ID":"x","Size":1}}'),
    SpoolCase("an editor's leaving", "post-finish~.1", b'{"Upload":{"ID":"x","Size":1}}'),
    SpoolCase(
        "an unknown type", _FINISH, b'{"Type":"rm -rf","Event":{"Upload":{"ID":"x","Size":1}}}'
    ),
    SpoolCase("a type of a number", _FINISH, b'{"Type":1,"Event":{"Upload":{"ID":"x","Size":1}}}'),
    SpoolCase(
        "a type of 70 letters",
        _FINISH,
        b'{"Type":"' + b"p" * 70 + b'","Event":{"Upload":{"ID":"x","Size":1}}}',
    ),
    SpoolCase(
        "a type that steers a terminal",
        _FINISH,
        b'{"Type":"\\u001b[2J","Event":{"Upload":{"ID":"x","Size":1}}}',
    ),
    SpoolCase("a name that steers a terminal", "\x1b[31mred\x07.json", b"{}"),
    SpoolCase("a name with a newline", "post-finish\n.json", b"{}"),
    SpoolCase("a name of 250 letters", "post-finish." + "x" * 238, b"{}"),
    SpoolCase("a name in Chinese", "post-finish.数据.json", b"{}"),
    SpoolCase("a name for options", "--help.json", b"{}"),
    SpoolCase("a name for the shell", "$(reboot);`id`.json", b"{}"),
    SpoolCase("a name that is no UTF-8", "post-finish.\udcff.json", b"{}"),
)

GOOD: Final = (
    SpoolCase("tusd 1", _FINISH, b'{"Upload":{"ID":"x","Size":1}}', ""),
    SpoolCase(
        "tusd 2", _FINISH, b'{"Type":"post-finish","Event":{"Upload":{"ID":"x","Size":1}}}', ""
    ),
    SpoolCase(
        "tusd 2 whatever its name",
        "x",
        b'{"Type":"post-create","Event":{"Upload":{"ID":"x","Size":1}}}',
        "",
    ),
    SpoolCase("rustus", _FINISH, b'{"upload":{"id":"x","offset":1,"length":1}}', ""),
    SpoolCase("of nobody", _FINISH, b'{"Upload":{"ID":"was/never/there","Size":1}}', ""),
    SpoolCase(
        "an id longer than any path",
        _FINISH,
        b'{"Upload":{"ID":"' + b"long/" * 2000 + b'x","Size":1}}',
        "",
    ),
    SpoolCase(
        "an id of a long step", _FINISH, b'{"Upload":{"ID":"' + b"l" * 400 + b'","Size":1}}', ""
    ),
    SpoolCase(
        "taken back, never there", "post-terminate.2.json", b'{"Upload":{"ID":"gone","Size":1}}', ""
    ),
    SpoolCase(
        "taken back, its id too long",
        "post-terminate.3.json",
        b'{"Upload":{"ID":"' + b"long/" * 2000 + b'x","Size":1}}',
        "",
    ),
    SpoolCase(
        "an id that steers a terminal",
        _FINISH,
        b'{"Upload":{"ID":"\\u001b[2J\\u202e","Size":1}}',
        "",
    ),
)

CASES: Final = (*BAD, *GOOD)
