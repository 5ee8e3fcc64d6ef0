"""The REST API's plans: a row is a name, the answer, and the code; the empty one means a plan."""

# ruff: noqa: RUF001 - letters that only look alike are the point

from __future__ import annotations

from typing import Final, NamedTuple

STUDY: Final = "11111111-2222-4333-8444-555555555555"
ALLOWED: Final = ("https://s3.example.org", "https://gateway.example.org:8443/tenants/a/")


class PlanCase(NamedTuple):
    """A row."""

    name: str
    text: bytes
    code: str = "plan_invalid"


class EndpointCase(NamedTuple):
    """An endpoint that a plan names with credentials of its own."""

    name: str
    endpoint: str
    allowed: bool = False


SHAPES: Final = (
    PlanCase("empty", b""),
    PlanCase("null", b"null"),
    PlanCase("a list", b"[]"),
    PlanCase("a text", b'"crypt4gh"'),
    PlanCase("no object", b"{"),
    PlanCase("HTML", b"<html><body>Sign in</body></html>"),
    PlanCase("NULs", bytes(100)),
    PlanCase("UTF-16", '{"encrypt":"none"}'.encode("utf-16")),
    PlanCase("bytes that are no text", b'{"encrypt":"\xff"}'),
    PlanCase("deep lists", b"[" * 200_000),
    PlanCase("deep objects", b'{"destinations":' * 50_000),
    PlanCase("deep, in what is ignored", b'{"encrypt":"none","x":' + b"[" * 100_000),
    PlanCase("nothing in it", b"{}"),
    PlanCase("no destinations", b'{"encrypt":"none"}'),
    PlanCase("no encryption named", b'{"destinations":[{"use":"archive"}]}'),
    PlanCase("destinations of null", b'{"encrypt":"none","destinations":null}'),
    PlanCase("no destination at all", b'{"encrypt":"none","destinations":[]}'),
    PlanCase(
        "destinations that are an object", b'{"encrypt":"none","destinations":{"use":"archive"}}'
    ),
    PlanCase("destinations that are names", b'{"encrypt":"none","destinations":["archive"]}'),
    PlanCase("a destination of null", b'{"encrypt":"none","destinations":[null]}'),
    PlanCase("a destination of nothing", b'{"encrypt":"none","destinations":[{}]}'),
    PlanCase(
        "101 destinations",
        b'{"encrypt":"none","destinations":['
        + b'{"use":"archive"},' * 100
        + b'{"use":"archive"}]}',
    ),
    PlanCase("an unknown destination", b'{"encrypt":"none","destinations":[{"use":"nowhere"}]}'),
    PlanCase(
        "a destination's name of another case",
        b'{"encrypt":"none","destinations":[{"use":"ARCHIVE"}]}',
    ),
    PlanCase(
        "a destination's name with a path",
        b'{"encrypt":"none","destinations":[{"use":"../archive"}]}',
    ),
    PlanCase(
        "a destination's name that steers",
        b'{"encrypt":"none","destinations":[{"use":"\\u001b[2J"}]}',
    ),
    PlanCase(
        "a destination's name of 100 kB",
        b'{"encrypt":"none","destinations":[{"use":"' + b"a" * 100_000 + b'"}]}',
    ),
    PlanCase(
        "one destination twice",
        b'{"encrypt":"none","destinations":[{"use":"archive"},{"use":"archive"}]}',
    ),
    PlanCase(
        "`use` with a bucket",
        b'{"encrypt":"none","destinations":[{"use":"archive","bucket":"other"}]}',
    ),
    PlanCase(
        "`use` with an endpoint",
        b'{"encrypt":"none","destinations":[{"use":"archive","endpoint":"https://evil.org"}]}',
    ),
    PlanCase(
        "`use` with credentials",
        b'{"encrypt":"none","destinations":[{"use":"archive","access_key":"a","secret_key":"b"}]}',
    ),
    PlanCase(
        "a field that nobody knows",
        b'{"encrypt":"none","destinations":[{"use":"archive","acl":"public-read"}]}',
    ),
    PlanCase(
        "a directory described",
        b'{"encrypt":"none","destinations":[{"type":"directory","directory":"/etc"}]}',
    ),
    PlanCase(
        "WebDAV described",
        b'{"encrypt":"none","destinations":[{"type":"webdav","url":"http://127.0.0.1/"}]}',
    ),
    PlanCase(
        "SFTP described", b'{"encrypt":"none","destinations":[{"type":"sftp","host":"127.0.0.1"}]}'
    ),
    PlanCase("an unknown encryption", b'{"encrypt":"rot13","destinations":[{"use":"archive"}]}'),
    PlanCase("an encryption of null", b'{"encrypt":null,"destinations":[{"use":"archive"}]}'),
    PlanCase(
        "an encryption of another case", b'{"encrypt":"None","destinations":[{"use":"archive"}]}'
    ),
    PlanCase(
        "encryption twice, the last unknown",
        b'{"encrypt":"none","destinations":[{"use":"archive"}],"encrypt":"x"}',
    ),
    PlanCase(
        "open in words", b'{"open":"true","encrypt":"none","destinations":[{"use":"archive"}]}'
    ),
    PlanCase("open as a number", b'{"open":1,"encrypt":"none","destinations":[{"use":"archive"}]}'),
    PlanCase("open of null", b'{"open":null,"encrypt":"none","destinations":[{"use":"archive"}]}'),
    PlanCase(
        "closed",
        b'{"open":false,"encrypt":"none","destinations":[{"use":"archive"}]}',
        "study_refused",
    ),
    PlanCase(
        "open and closed",
        b'{"open":true,"open":false,"encrypt":"none","destinations":[{"use":"archive"}]}',
        "study_refused",
    ),
    PlanCase(
        "another study's",
        b'{"study":"22222222-2222-4333-8444-555555555555","encrypt":"none","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a study of a number", b'{"study":1,"encrypt":"none","destinations":[{"use":"archive"}]}'
    ),
    PlanCase(
        "a limit below nothing",
        b'{"max_size":-1,"encrypt":"none","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a limit of 1.5", b'{"max_size":1.5,"encrypt":"none","destinations":[{"use":"archive"}]}'
    ),
    PlanCase(
        "a limit of 2^63",
        b'{"max_size":9223372036854775808,"encrypt":"none","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a limit of 5000 digits",
        b'{"max_size":' + b"9" * 5000 + b',"encrypt":"none","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a limit in words",
        b'{"max_size":"5TiB","encrypt":"none","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "recipients of a text",
        b'{"encrypt":"age","recipients":"age1","destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "recipients of numbers",
        b'{"encrypt":"age","recipients":[1],"destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "recipients of null",
        b'{"encrypt":"age","recipients":null,"destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "1001 recipients",
        b'{"encrypt":"age","recipients":['
        + b'"k",' * 1000
        + b'"k"],"destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a recipient of 70 kB",
        b'{"encrypt":"age","recipients":["'
        + b"k" * 70_000
        + b'"],"destinations":[{"use":"archive"}]}',
    ),
    PlanCase(
        "a lone surrogate for a recipient",
        b'{"encrypt":"age","recipients":["\\ud800"],"destinations":[{"use":"archive"}]}',
    ),
    PlanCase("the least", b'{"encrypt":"none","destinations":[{"use":"archive"}]}', ""),
    PlanCase(
        "with more than is known",
        b'{"encrypt":"none","destinations":[{"use":"archive"}],"title":"A study"}',
        "",
    ),
)

PATHS: Final = (
    "", "/", "/etc/passwd", "//host/share", "a/", "a//b", ".", "..", "./a", "../a", "a/..",
    "a/../b", "a/./b", "{upload}/..", "../{upload}", "{upload}/../../x", "{", "}", "{upload",
    "upload}",
    "{other}", "{0}", "{}", "{upload!r}", "{upload:>99}", "{upload.__class__}", "{upload[0]}",
    "{study}/{UPLOAD}", "a\nb", "a\r\nHost: evil", "a\tb", "a\0b", "\x1b[2J", "a\x7fb", "a\x85b",
    "a\u2028b", "a\u202eb", "a\ufeffb", "x" * 513, "a/" * 300,
)  # fmt: skip

ENDPOINTS: Final = (
    EndpointCase("itself", "https://s3.example.org", allowed=True),
    EndpointCase("with a slash", "https://s3.example.org/", allowed=True),
    EndpointCase("in capitals", "HTTPS://S3.EXAMPLE.ORG", allowed=True),
    EndpointCase("with its own port", "https://s3.example.org:443", allowed=True),
    EndpointCase("with its port in five digits", "https://s3.example.org:00443", allowed=True),
    EndpointCase("below it", "https://s3.example.org/a/b", allowed=True),
    EndpointCase("a tenant below", "https://gateway.example.org:8443/tenants/a/x", allowed=True),
    EndpointCase("nothing", ""),
    EndpointCase("a blank", " "),
    EndpointCase("no scheme", "s3.example.org"),
    EndpointCase("half a scheme", "//s3.example.org"),
    EndpointCase("no host", "https://"),
    EndpointCase("no TLS", "http://s3.example.org"),
    EndpointCase("a file", "file:///etc/passwd"),
    EndpointCase("a file at a host", "file://s3.example.org/etc/passwd"),
    EndpointCase("FTP", "ftp://s3.example.org"),
    EndpointCase("gopher", "gopher://s3.example.org:25/_HELO"),
    EndpointCase("a Unix socket", "unix:///run/docker.sock"),
    EndpointCase("a Unix socket by HTTP", "http+unix://%2Frun%2Fdocker.sock"),
    EndpointCase("data", "data:text/plain,x"),
    EndpointCase("script", "javascript:alert(1)"),
    EndpointCase("another port", "https://s3.example.org:8443"),
    EndpointCase("port 0", "https://s3.example.org:0"),
    EndpointCase("port 65536", "https://s3.example.org:65536"),
    EndpointCase("port 443 of six digits", "https://s3.example.org:000443"),
    EndpointCase("a port less than nothing", "https://s3.example.org:-443"),
    EndpointCase("a port in letters", "https://s3.example.org:https"),
    EndpointCase("a port in Arabic", "https://s3.example.org:٤٤٣"),
    EndpointCase("an empty port", "https://s3.example.org:"),
    EndpointCase("a user that looks like it", "https://s3.example.org@evil.org"),
    EndpointCase("a user and a password", "https://s3.example.org:443@evil.org/"),
    EndpointCase("a user at it", "https://me@s3.example.org"),
    EndpointCase("two users", "https://a@b@s3.example.org"),
    EndpointCase("an empty user", "https://@s3.example.org"),
    EndpointCase("an escaped at", "https://s3.example.org%40evil.org"),
    EndpointCase("a backslash", "https://evil.org\\@s3.example.org"),
    EndpointCase("a backslash for a slash", "https:\\\\s3.example.org"),
    EndpointCase("a backslash behind", "https://s3.example.org\\.evil.org"),
    EndpointCase("a fragment", "https://evil.org#@s3.example.org"),
    EndpointCase("a query", "https://evil.org?@s3.example.org"),
    EndpointCase("with a query", "https://s3.example.org?x=1"),
    EndpointCase("with a fragment", "https://s3.example.org#x"),
    EndpointCase("with a semicolon", "https://s3.example.org;evil.org"),
    EndpointCase("a domain behind", "https://s3.example.org.evil.org"),
    EndpointCase("a name that begins so", "https://s3.example.organic"),
    EndpointCase("a name that ends so", "https://evils3.example.org"),
    EndpointCase("a name below", "https://x.s3.example.org"),
    EndpointCase("a name above", "https://example.org"),
    EndpointCase("the root's dot", "https://s3.example.org."),
    EndpointCase("a newline behind", "https://s3.example.org\n"),
    EndpointCase("a newline within", "https://s3.example\n.org"),
    EndpointCase("a header behind", "https://s3.example.org\r\nHost: evil.org"),
    EndpointCase("a tab before", "\thttps://s3.example.org"),
    EndpointCase("a tab within", "https://s3.exam\tple.org"),
    EndpointCase("a NUL", "https://s3.example.org\0.evil.org"),
    EndpointCase("a full-width dot", "https://s3．example．org"),
    EndpointCase("an ideographic dot", "https://s3。example。org"),
    EndpointCase("a Cyrillic letter", "https://s3.ехample.org"),
    EndpointCase("a soft hyphen", "https://s3.exam\u00adple.org"),
    EndpointCase("a long s", "https://s3.example.org/\u017f"),
    EndpointCase("a long s in the host", "https://\u017f3.example.org"),
    EndpointCase("a Kelvin sign", "https://\u212a.example.org"),
    EndpointCase("an escaped dot", "https://s3%2eexample.org"),
    EndpointCase("an escaped slash", "https://s3.example.org%2f.evil.org"),
    EndpointCase("dots in the path", "https://gateway.example.org:8443/tenants/a/../b"),
    EndpointCase("dots at the end", "https://gateway.example.org:8443/tenants/a/.."),
    EndpointCase("escaped dots", "https://gateway.example.org:8443/tenants/a/%2e%2e/b"),
    EndpointCase("a tenant that begins so", "https://gateway.example.org:8443/tenants/ab"),
    EndpointCase("all tenants", "https://gateway.example.org:8443/tenants"),
    EndpointCase("a tenant of another case", "https://gateway.example.org:8443/tenants/A"),
    EndpointCase("two slashes", "https://gateway.example.org:8443//tenants/a"),
    EndpointCase("loopback by name", "http://localhost:8121"),
    EndpointCase("loopback by number", "http://127.0.0.1:8121"),
    EndpointCase("loopback, short", "http://127.1"),
    EndpointCase("loopback in decimal", "http://2130706433"),
    EndpointCase("loopback in hex", "http://0x7f000001"),
    EndpointCase("loopback in octal", "http://0177.0.0.1"),
    EndpointCase("loopback in IPv6", "http://[::1]"),
    EndpointCase("loopback mapped", "http://[::ffff:127.0.0.1]"),
    EndpointCase("loopback mapped in hex", "http://[::ffff:7f00:1]"),
    EndpointCase("loopback by 6to4", "http://[2002:7f00:1::]"),
    EndpointCase("loopback by NAT64", "http://[64:ff9b::7f00:1]"),
    EndpointCase("any address", "http://0.0.0.0"),
    EndpointCase("any address, short", "http://0"),
    EndpointCase("any address in IPv6", "http://[::]"),
    EndpointCase("the cloud's metadata", "http://169.254.169.254/latest/meta-data"),
    EndpointCase("the cloud's metadata in decimal", "http://2852039166"),
    EndpointCase("the cloud's metadata in hex", "http://0xa9fea9fe"),
    EndpointCase("the cloud's metadata in IPv6", "http://[fd00:ec2::254]"),
    EndpointCase("the cloud's metadata by name", "http://metadata.google.internal"),
    EndpointCase("the containers' metadata", "http://169.254.170.2/v2/credentials"),
    EndpointCase("link-local with a zone", "http://[fe80::1%25eth0]"),
    EndpointCase("link-local", "http://[fe80::1]"),
    EndpointCase("a private network", "http://10.0.0.1"),
    EndpointCase("a name that resolves to loopback", "https://127.0.0.1.nip.io"),
    EndpointCase("a name that resolves to the metadata", "https://169-254-169-254.sslip.io"),
    EndpointCase("a bracket too few", "https://[::1"),
    EndpointCase("a bracket too many", "https://s3.example.org]"),
    EndpointCase("an empty bracket", "https://[]"),
    EndpointCase("a host in brackets", "https://[s3.example.org]"),
    EndpointCase("3000 letters", "https://s3.example.org" + "a" * 3000),
    EndpointCase("3000 steps that lead back", "https://s3.example.org" + "/..a/.." * 3000),
)
