"""Bech32, the text form of age keys: a prefix, ``1``, and letters that carry a checksum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_LETTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES: Final = {letter: value for value, letter in enumerate(_LETTERS)}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6
_LETTER, _BYTE = 5, 8


def encode(prefix: str, data: bytes) -> str:
    """``data`` in lower case below a lower-case ``prefix``."""
    values = _regroup(data, _BYTE, _LETTER, pad=True)
    remainder = _remainder([*_expand(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    checksum = [remainder >> _LETTER * (_CHECKSUM - 1 - n) & 31 for n in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_LETTERS[value] for value in [*values, *checksum])}"


def decode(text: str) -> tuple[str, bytes]:
    """The prefix in lower case, and the data.

    Raises ValueError for mixed case, unknown letters, a wrong checksum, and bits left over; the
    message holds nothing of the text.
    """
    if not text.isascii() or text not in {text.lower(), text.upper()}:
        raise ValueError("the key has letters of mixed case, or ones that no key has")
    prefix, separator, letters = text.lower().rpartition("1")
    if not (prefix and separator) or len(letters) < _CHECKSUM:
        raise ValueError("the key is cut short")
    if not set(letters) <= _VALUES.keys():
        raise ValueError("the key has letters that no key has")
    values = [_VALUES[letter] for letter in letters]
    if _remainder([*_expand(prefix), *values]) != 1:
        raise ValueError("the key's checksum is wrong: it is mistyped or cut short")
    return prefix, bytes(_regroup(values[:-_CHECKSUM], _LETTER, _BYTE, pad=False))


def _expand(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _remainder(values: Iterable[int]) -> int:
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                remainder ^= generator
    return remainder


def _regroup(values: Iterable[int], width: int, wanted: int, *, pad: bool) -> list[int]:
    """The same bits in groups of another width."""
    bits = held = 0
    groups: list[int] = []
    for value in values:
        bits = (bits << width | value) & 0xFFF
        held += width
        while held >= wanted:
            held -= wanted
            groups.append(bits >> held & ((1 << wanted) - 1))
    left = bits & ((1 << held) - 1)
    if pad and held:
        groups.append(left << (wanted - held))
    elif not pad and (held >= width or left):
        raise ValueError("the key has bits left over")
    return groups
