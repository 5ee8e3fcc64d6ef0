"""Values that keep their secrets out of logs, tracebacks and debuggers."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Discreet(msgspec.Struct, frozen=True):
    """A value whose text form shows ``…`` in place of its ``HIDDEN`` fields."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What may be shown, field by field. An empty secret is none, and shown as such."""
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, "…" if name in self.HIDDEN and value else value) for name, value in fields]

    def __repr__(self) -> str:
        """The same on one line."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"
