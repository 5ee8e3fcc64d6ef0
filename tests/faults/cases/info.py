"""Texts of ``.info`` files: what each has to come to.

A row is a name, the file's path without its suffix, its bytes, and the code; the empty code means
that it is read. Where the code is ``source_unsafe`` it is read, and what it leads to is refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1024 * 1024
STUDY: Final = "11111111-2222-4333-8444-555555555555"


class InfoCase(NamedTuple):
    """A row."""

    name: str
    text: bytes
    code: str = "info_invalid"
    stem: str = "abc"


BAD: Final = (
    InfoCase("empty", b""),
    InfoCase("one NUL", b"\0"),
    InfoCase("many NULs, as after a power cut", bytes(4096)),
    InfoCase("blanks", b"  \n\t "),
    InfoCase("null", b"null"),
    InfoCase("true", b"true"),
    InfoCase("a number", b"17"),
    InfoCase("a text", b'"abc"'),
    InfoCase("a list", b"[]"),
    InfoCase("a list of one", b'[{"ID":"abc","Size":1}]'),
    InfoCase("an empty object", b"{}"),
    InfoCase("no server's", b'{"hello":"world"}'),
    InfoCase("a brace", b"{"),
    InfoCase("torn in a key", b'{"I'),
    InfoCase("torn after a key", b'{"ID"'),
    InfoCase("torn in the id", b'{"ID":"ab'),
    InfoCase("torn in the size", b'{"ID":"abc","Size":1'),
    InfoCase("torn in the metadata", b'{"ID":"abc","Size":1,"MetaData":{"filename":"x'),
    InfoCase("torn in an escape", b'{"ID":"abc\\u00'),
    InfoCase("torn in a letter", b'{"ID":"abc","Size":1,"MetaData":{"a":"\xc3'),
    InfoCase("two objects", b'{"ID":"abc","Size":1}{"ID":"abc","Size":1}'),
    InfoCase("what follows", b'{"ID":"abc","Size":1} trailing'),
    InfoCase("a comma too many", b'{"ID":"abc","Size":1,}'),
    InfoCase("a comment", b'{"ID":"abc","Size":1/* one */}'),
    InfoCase("single quotes", b"{'ID':'abc','Size':1}"),
    InfoCase("no quotes", b"{ID:1}"),
    InfoCase("YAML", b"ID: abc\nSize: 1\n"),
    InfoCase("XML", b"<?xml version='1.0'?><ID>abc</ID>"),
    InfoCase("PHP", b"<?php system($_GET['x']);"),
    InfoCase("a pickle", b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."),
    InfoCase("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3"),
    InfoCase("a byte order mark", b'\xef\xbb\xbf{"ID":"abc","Size":1}'),
    InfoCase("UTF-16", '{"ID":"abc","Size":1}'.encode("utf-16")),
    InfoCase("UTF-32", '{"ID":"abc","Size":1}'.encode("utf-32")),
    InfoCase("Latin-1", b'{"ID":"abc","Size":1,"MetaData":{"filename":"\xe4.txt"}}'),
    InfoCase("an overlong slash", b'{"ID":"abc","Size":1,"MetaData":{"filename":"\xc0\xaf"}}'),
    InfoCase("a surrogate in UTF-8", b'{"ID":"abc","Size":1,"MetaData":{"f":"\xed\xa0\x80"}}'),
    InfoCase("a lone high surrogate", b'{"ID":"abc","Size":1,"MetaData":{"f":"\\ud83d"}}'),
    InfoCase("a lone low surrogate", b'{"ID":"abc","Size":1,"MetaData":{"f":"\\udc00"}}'),
    InfoCase("surrogates swapped", b'{"ID":"abc","Size":1,"MetaData":{"f":"\\udc00\\ud83d"}}'),
    InfoCase("a surrogate for a key", b'{"ID":"abc","Size":1,"MetaData":{"\\ud800":"x"}}'),
    InfoCase("a surrogate for an id", b'{"ID":"\\ud800","Size":1}'),
    InfoCase("a bare newline in a text", b'{"ID":"abc","Size":1,"MetaData":{"f":"a\nb"}}'),
    InfoCase("a bare NUL in a text", b'{"ID":"abc","Size":1,"MetaData":{"f":"a\0b"}}'),
    InfoCase("an unknown escape", b'{"ID":"abc","Size":1,"MetaData":{"f":"\\x41"}}'),
    InfoCase("half a million brackets", b"[" * 500_000),
    InfoCase("deep lists in a place", b'{"ID":"abc","Size":1,"x":' + b"[" * 300_000 + b"}"),
    InfoCase("deep objects", b'{"ID":' * 150_000),
    InfoCase("deep lists, closed", b'{"ID":"abc","Storage":{"x":' + b"[" * 9999 + b"]" * 9999),
    InfoCase("deep storage", b'{"ID":"abc","Size":1,"Storage":' + b'{"a":' * 9999),
    InfoCase("over 1 MiB of blanks", b'{"ID":"abc","Size":1}' + b" " * MIB),
    InfoCase("over 1 MiB of metadata", b'{"ID":"abc","MetaData":{"a":"' + b"x" * MIB + b'"}}'),
    InfoCase("over 1 MiB of zeros", bytes(MIB + 1)),
    InfoCase("a size that is a text", b'{"ID":"abc","Size":"1"}'),
    InfoCase("a size that is null", b'{"ID":"abc","Size":null}'),
    InfoCase("a size that is true", b'{"ID":"abc","Size":true}'),
    InfoCase("a size that is a list", b'{"ID":"abc","Size":[1]}'),
    InfoCase("a size of less than nothing", b'{"ID":"abc","Size":-1}'),
    InfoCase("a size of 2^63", b'{"ID":"abc","Size":9223372036854775808}'),
    InfoCase("a size of 2^64", b'{"ID":"abc","Size":18446744073709551616}'),
    InfoCase("a size of 5000 digits", b'{"ID":"abc","Size":' + b"9" * 5000 + b"}"),
    InfoCase("a size of 1e400", b'{"ID":"abc","Size":1e400}'),
    InfoCase("a size of 1.5", b'{"ID":"abc","Size":1.5}'),
    InfoCase("a size of NaN", b'{"ID":"abc","Size":NaN}'),
    InfoCase("a size of Infinity", b'{"ID":"abc","Size":Infinity}'),
    InfoCase("a size in hex", b'{"ID":"abc","Size":0x10}'),
    InfoCase("a size with a leading zero", b'{"ID":"abc","Size":01}'),
    InfoCase("a size with a plus", b'{"ID":"abc","Size":+1}'),
    InfoCase("no size, and not deferred", b'{"ID":"abc"}'),
    InfoCase("an id that is a number", b'{"ID":7,"Size":1}'),
    InfoCase("an id that is null", b'{"ID":null,"Size":1}'),
    InfoCase("an id that is a list", b'{"ID":["abc"],"Size":1}'),
    InfoCase("another upload's id", b'{"ID":"other","Size":1}'),
    InfoCase("another upload's id below", b'{"ID":"abc/def","Size":1}'),
    InfoCase("an id with a NUL", b'{"ID":"abc\\u0000","Size":1}'),
    InfoCase("the id twice, the last another's", b'{"ID":"abc","Size":1,"ID":"other"}'),
    InfoCase("the size twice, the last none", b'{"ID":"abc","Size":1,"Size":"x"}'),
    InfoCase("metadata of numbers", b'{"ID":"abc","Size":1,"MetaData":{"a":1}}'),
    InfoCase("metadata of nulls", b'{"ID":"abc","Size":1,"MetaData":{"a":null}}'),
    InfoCase("metadata of lists", b'{"ID":"abc","Size":1,"MetaData":{"a":["b"]}}'),
    InfoCase("metadata of objects", b'{"ID":"abc","Size":1,"MetaData":{"a":{"b":"c"}}}'),
    InfoCase("metadata that is a list", b'{"ID":"abc","Size":1,"MetaData":[]}'),
    InfoCase("metadata that is a text", b'{"ID":"abc","Size":1,"MetaData":"study x"}'),
    InfoCase("deferred, in words", b'{"ID":"abc","Size":1,"SizeIsDeferred":"no"}'),
    InfoCase("deferred, as a number", b'{"ID":"abc","Size":1,"SizeIsDeferred":0}'),
    InfoCase("partial, in words", b'{"ID":"abc","Size":1,"IsPartial":"yes"}'),
    InfoCase("partials that are a text", b'{"ID":"abc","Size":1,"PartialUploads":"a"}'),
    InfoCase("partials that are numbers", b'{"ID":"abc","Size":1,"PartialUploads":[1]}'),
    InfoCase("a NUL in a partial", b'{"ID":"abc","Size":1,"PartialUploads":["a\\u0000"]}'),
    InfoCase("storage that is a list", b'{"ID":"abc","Size":1,"Storage":[]}'),
    InfoCase("storage that is a text", b'{"ID":"abc","Size":1,"Storage":"filestore"}'),
    InfoCase("a path of a number", b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"x","Path":1}}'),
    InfoCase(
        "a path with a NUL", b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"x","Path":"\\u0000"}}'
    ),
    InfoCase("an info path of a list", b'{"ID":"abc","Size":1,"Storage":{"InfoPath":["x"]}}'),
    InfoCase("rustus without its offset", b'{"id":"abc","length":1}'),
    InfoCase("rustus with a null offset", b'{"id":"abc","offset":null,"length":1}'),
    InfoCase("rustus with a negative offset", b'{"id":"abc","offset":-1,"length":1}'),
    InfoCase("rustus with a negative length", b'{"id":"abc","offset":0,"length":-1}'),
    InfoCase("rustus with a length in words", b'{"id":"abc","offset":0,"length":"one"}'),
    InfoCase("rustus on S3", b'{"id":"abc","offset":0,"length":1,"storage":"hybrid_s3"}'),
    InfoCase("rustus with parts of numbers", b'{"id":"abc","offset":0,"length":1,"parts":[1]}'),
    InfoCase("rustus with a path of NUL", b'{"id":"abc","offset":0,"length":1,"path":"\\u0000"}'),
    InfoCase("rustus of another upload", b'{"id":"other","offset":0,"length":1}'),
    InfoCase("rustus without an id", b'{"offset":0,"length":1}'),
    InfoCase("tuspyserver without its size", b'{"defer_length":false}'),
    InfoCase("tuspyserver, deferred in words", b'{"size":1,"defer_length":"false"}'),
    InfoCase("tuspyserver with a bad offset", b'{"size":1,"offset":-5,"defer_length":false}'),
    InfoCase(
        "tuspyserver with metadata of 1", b'{"size":1,"defer_length":false,"metadata":{"a":1}}'
    ),
)

UNSAFE: Final = (
    InfoCase("an id one up", b'{"ID":"../abc","Size":1}', "source_unsafe"),
    InfoCase("an id far up", b'{"ID":"../../../../etc/passwd","Size":1}', "source_unsafe"),
    InfoCase("an id that comes back", b'{"ID":"x/../abc","Size":1}', "source_unsafe"),
    InfoCase("an id of dots", b'{"ID":"..","Size":1}', "source_unsafe"),
    InfoCase("an id of a dot", b'{"ID":".","Size":1}', "source_unsafe"),
    InfoCase("an absolute id", b'{"ID":"/etc/passwd","Size":1}', "source_unsafe"),
    InfoCase("an id with two slashes", b'{"ID":"a//b","Size":1}', "source_unsafe"),
    InfoCase("an id that ends in a slash", b'{"ID":"abc/","Size":1}', "source_unsafe"),
    InfoCase("an empty id", b'{"ID":"","Size":1}', "source_unsafe"),
    InfoCase("rustus one up", b'{"id":"../abc","offset":1,"length":1}', "source_unsafe"),
    InfoCase("rustus, absolute", b'{"id":"/etc/shadow","offset":1,"length":1}', "source_unsafe"),
    InfoCase(
        "rustus with a path elsewhere",
        b'{"id":"abc","offset":1,"length":1,"path":"/etc/passwd"}',
        "source_unsafe",
    ),
    InfoCase(
        "rustus with a path through dots",
        b'{"id":"abc","offset":1,"length":1,"path":"/srv/../etc/passwd"}',
        "source_unsafe",
    ),
    InfoCase(
        "rustus with a path that climbs",
        b'{"id":"abc","offset":1,"length":1,"path":"../../etc/passwd"}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with a path elsewhere",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/x","Path":"/etc/passwd"}}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with a path of a process",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/x","Path":"/proc/self/environ"}}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with a path to a device",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/x","Path":"/dev/zero"}}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with a path of dots",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/x","Path":".."}}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with its directory for a path",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/u/abc.info","Path":"/u/"}}',
        "source_unsafe",
    ),
    InfoCase(
        "tusd with a path out of its own directory",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/u/abc.info","Path":"/u/../v"}}',
        "source_unsafe",
    ),
    InfoCase(
        "a path of 300 letters",
        b'{"ID":"abc","Size":1,"Storage":{"InfoPath":"/x","Path":"' + b"p" * 300 + b'"}}',
        "source_unsafe",
    ),
)

GOOD: Final = (
    InfoCase("tusd 2", b'{"ID":"abc","Size":1,"Offset":0,"MetaData":{}}', ""),
    InfoCase("tusd 1", b'{"ID":"abc","Size":1,"MetaData":null,"Storage":{"Path":"/etc"}}', ""),
    InfoCase("of no bytes", b'{"ID":"abc","Size":0}', ""),
    InfoCase("of 2^63 - 1 bytes", b'{"ID":"abc","Size":9223372036854775807}', ""),
    InfoCase("deferred, whatever its size", b'{"ID":"abc","Size":0,"SizeIsDeferred":true}', ""),
    InfoCase("rustus", b'{"id":"abc","offset":1,"length":1}', ""),
    InfoCase("tuspyserver", b'{"size":1,"defer_length":false}', ""),
    InfoCase("keys that nobody knows", b'{"ID":"abc","Size":1,"Evil":{"x":[1,2]}}', ""),
    InfoCase("an escaped slash", b'{"ID":"a\\/b","Size":1}', "", "a/b"),
    InfoCase("an id in Chinese", '{"ID":"数据","Size":1}'.encode(), "", "数据"),
    InfoCase("the size twice, the last good", b'{"ID":"abc","Size":"x","Size":1}', "info_invalid"),
    InfoCase("blanks around", b'\n {"ID" : "abc" , "Size" : 1 }\r\n', ""),
)

CASES: Final = (*BAD, *UNSAFE, *GOOD)
