"""Recipients' and secret keys: a row is a name, the kind, and the text."""

# ruff: noqa: RUF001 - letters that only look alike are the point

from __future__ import annotations

import base64
import struct
from typing import Final, NamedTuple


class KeyCase(NamedTuple):
    """A row."""

    name: str
    text: str


def _public(raw: bytes, label: str = "CRYPT4GH PUBLIC KEY") -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(raw).decode()}\n-----END {label}-----\n"


def _string(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _secret(body: bytes) -> str:
    return _public(b"c4gh-v1" + body, "CRYPT4GH PRIVATE KEY")


def _sealed(kdf: bytes, rounds: int, cipher: bytes = b"chacha20_poly1305", size: int = 60) -> str:
    options = struct.pack(">I", rounds) + bytes(range(16))
    return _secret(_string(kdf) + _string(options) + _string(cipher) + _string(bytes(size)))


_PRIME: Final = 2**255 - 19
_GOOD: Final = bytes(range(1, 33))

CRYPT4GH: Final = (
    KeyCase("empty", ""),
    KeyCase("blanks", " \n\n"),
    KeyCase("a word", "hello"),
    KeyCase(
        "an armour of nothing",
        "-----BEGIN CRYPT4GH PUBLIC KEY-----\n-----END CRYPT4GH PUBLIC KEY-----",
    ),
    KeyCase("an armour without its end", "-----BEGIN CRYPT4GH PUBLIC KEY-----\nAAAA"),
    KeyCase(
        "an armour with another's end",
        "-----BEGIN CRYPT4GH PUBLIC KEY-----\nAAAA\n-----END RSA KEY-----",
    ),
    KeyCase("only a beginning", "-----BEGIN "),
    KeyCase("only dashes", "-----"),
    KeyCase("what follows", _public(_GOOD) + "more"),
    KeyCase("what goes before", "# a comment\n" + _public(_GOOD)),
    KeyCase("twice", _public(_GOOD) * 2),
    KeyCase("31 bytes", _public(_GOOD[:31])),
    KeyCase("33 bytes", _public(_GOOD + b"x")),
    KeyCase("64 bytes", _public(_GOOD * 2)),
    KeyCase(
        "no base64", "-----BEGIN CRYPT4GH PUBLIC KEY-----\n!!!!\n-----END CRYPT4GH PUBLIC KEY-----"
    ),
    KeyCase(
        "base64 for URLs",
        "-----BEGIN CRYPT4GH PUBLIC KEY-----\n" + "_-" * 22 + "\n-----END CRYPT4GH PUBLIC KEY-----",
    ),
    KeyCase("bare and short", base64.b64encode(_GOOD[:31]).decode()),
    KeyCase(
        "bare, with blanks in it",
        base64.b64encode(_GOOD).decode()[:20] + " " + base64.b64encode(_GOOD).decode()[20:],
    ),
    KeyCase("bare, with a letter of none", "ä" + base64.b64encode(_GOOD).decode()[1:]),
    KeyCase("hex", _GOOD.hex()),
    KeyCase("not canonical: the prime", _public(_PRIME.to_bytes(32, "little"))),
    KeyCase("not canonical: one more", _public((_PRIME + 1).to_bytes(32, "little"))),
    KeyCase("not canonical: all ones", _public(b"\xff" * 32)),
    KeyCase("not canonical: the top bit", _public(_GOOD[:31] + bytes([_GOOD[31] | 0x80]))),
    KeyCase("the point 0", _public(bytes(32))),
    KeyCase("the point 1", _public(b"\x01" + bytes(31))),
    KeyCase(
        "a point of order 8",
        _public(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
    ),
    KeyCase(
        "another point of order 8",
        _public(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
    ),
    KeyCase("the point -1", _public((_PRIME - 1).to_bytes(32, "little"))),
    KeyCase("a secret key", _secret(_string(b"none") + _string(b"none") + _string(_GOOD))),
    KeyCase("an RSA key", _public(_GOOD, "RSA PUBLIC KEY")),
    KeyCase("a certificate", _public(_GOOD, "CERTIFICATE")),
    KeyCase("an SSH key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@host"),
    KeyCase("an age key", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"),
    KeyCase(
        "PGP", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----"
    ),
    KeyCase("20 kB", "A" * 20_000),
    KeyCase("20 kB of lines", "A\n" * 10_000),
    KeyCase("a NUL", "\0" * 44),
    KeyCase("a path", "/etc/passwd"),
    KeyCase("a URL", "http://169.254.169.254/key"),
    KeyCase("a lone surrogate", "\ud800"),
    KeyCase("a terminal's", "\x1b[2J"),
)

AGE: Final = (
    KeyCase("empty", ""),
    KeyCase("a comment only", "# nothing"),
    KeyCase("a word", "hello"),
    KeyCase("only its prefix", "age1"),
    KeyCase("a letter mistyped", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8q"),
    KeyCase("a letter too few", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8"),
    KeyCase("a letter too many", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8pp"),
    KeyCase("of mixed case", "age1QL3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"),
    KeyCase(
        "two on two lines", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n" * 2
    ),
    KeyCase(
        "a plugin's", "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"
    ),
    KeyCase(
        "a secret key", "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    ),
    KeyCase(
        "a secret key in small letters",
        "age-secret-key-1gfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpq4egaex",
    ),
    KeyCase("an SSH key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@host"),
    KeyCase("a Crypt4GH key", _public(_GOOD)),
    KeyCase(
        "full-width letters", "ａｇｅ1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    ),
    KeyCase("a long s", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5\u017ffn9aqmcac8p"),
    KeyCase("blanks in it", "age1ql3z7hjy54pw3hyww5 ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"),
    KeyCase("a NUL behind", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\0"),
    KeyCase("20 kB", "age1" + "q" * 20_000),
    KeyCase("a lone surrogate", "age1\ud800"),
)

SECRETS: Final = (
    KeyCase("empty", ""),
    KeyCase("a word", "hello"),
    KeyCase("a public key", _public(_GOOD)),
    KeyCase("an OpenSSH key", _public(b"openssh-key-v1\0", "OPENSSH PRIVATE KEY")),
    KeyCase("nothing in it", _secret(b"")),
    KeyCase("cut in a length", _secret(b"\x00")),
    KeyCase("cut in the KDF", _secret(b"\x00\x10non")),
    KeyCase("a length of 65535", _secret(b"\xff\xff")),
    KeyCase("cut behind the KDF", _secret(_string(b"none"))),
    KeyCase("cut behind the cipher", _secret(_string(b"none") + _string(b"none"))),
    KeyCase("a key of no bytes", _secret(_string(b"none") + _string(b"none") + _string(b""))),
    KeyCase(
        "a key of 31 bytes", _secret(_string(b"none") + _string(b"none") + _string(_GOOD[:31]))
    ),
    KeyCase("a key of 64 bytes", _secret(_string(b"none") + _string(b"none") + _string(_GOOD * 2))),
    KeyCase("an unknown KDF", _sealed(b"argon2id", 1)),
    KeyCase("a KDF of no name", _sealed(b"", 1)),
    KeyCase("an unknown cipher", _sealed(b"scrypt", 0, b"rot13")),
    KeyCase("a cipher of none for a sealed key", _sealed(b"scrypt", 0, b"none")),
    KeyCase(
        "options cut short",
        _secret(
            _string(b"scrypt")
            + _string(b"\0\0")
            + _string(b"chacha20_poly1305")
            + _string(bytes(60))
        ),
    ),
    KeyCase(
        "options without salt",
        _secret(
            _string(b"scrypt")
            + _string(bytes(4))
            + _string(b"chacha20_poly1305")
            + _string(bytes(60))
        ),
    ),
    KeyCase("no nonce", _sealed(b"scrypt", 0, size=0)),
    KeyCase("half a nonce", _sealed(b"scrypt", 0, size=6)),
    KeyCase("no tag", _sealed(b"scrypt", 0, size=12)),
    KeyCase("a wrong tag", _sealed(b"scrypt", 0)),
    KeyCase("PBKDF2 without rounds", _sealed(b"pbkdf2_hmac_sha256", 0)),
    KeyCase("PBKDF2 with one", _sealed(b"pbkdf2_hmac_sha256", 1)),
    KeyCase("PBKDF2 with 2^32 - 1", _sealed(b"pbkdf2_hmac_sha256", 2**32 - 1)),
    KeyCase("bcrypt without rounds", _sealed(b"bcrypt", 0)),
    KeyCase("bcrypt with one", _sealed(b"bcrypt", 1)),
    KeyCase("bcrypt with 10,000,000", _sealed(b"bcrypt", 10_000_000)),
    KeyCase("bcrypt with 2^32 - 1", _sealed(b"bcrypt", 2**32 - 1)),
    KeyCase("an age key cut short", "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZ"),
    KeyCase(
        "an age key mistyped",
        "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEY",
    ),
    KeyCase(
        "an age key of mixed case",
        "AGE-SECRET-KEY-1gfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpq4egaex",
    ),
    KeyCase("an age plugin's key", "AGE-PLUGIN-YUBIKEY-1QQQQ"),
    KeyCase("an age file of nothing", "age-encryption.org/v1\n"),
    KeyCase("an age file without a stanza", "age-encryption.org/v1\n--- AAAA\n"),
    KeyCase(
        "an age file that asks for 2^63",
        "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 63\n"
        + "A" * 43
        + "\n--- "
        + "A" * 43
        + "\n",
    ),
    KeyCase(
        "an age file that asks for 2^99",
        "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 99\n"
        + "A" * 43
        + "\n--- "
        + "A" * 43
        + "\n",
    ),
    KeyCase(
        "an age file for another",
        "age-encryption.org/v1\n-> X25519 "
        + "A" * 43
        + "\n"
        + "A" * 43
        + "\n--- "
        + "A" * 43
        + "\n",
    ),
    KeyCase("20 kB", "A" * 20_000),
)
