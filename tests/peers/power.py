"""What a disk holds after the power went: a recording of all that was written, played up to there.

The daemon runs under strace, which writes down each call that changes the file system. From that,
:class:`Disk` knows two states at any point: what was written, and what is certain to be there
after a power loss. Of a file that is its content at its last fsync, and of a directory its names
at its own last fsync: the strictest reading of what file systems promise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.peers.cache import tool

CALLS = (
    *("open", "creat", "openat", "write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("fsync", "fdatasync", "truncate", "ftruncate", "mkdir", "mkdirat", "rmdir"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
)
_UNKNOWN = frozenset({"pwritev", "pwritev2", "truncate", "rmdir", "symlink"})
_LONGEST = 64 * 1024 * 1024

_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<((?:\\x[0-9a-f]{2})*)>)?")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)(?:<((?:\\x[0-9a-f]{2})*)>)?")
_ARGUMENT = re.compile(
    r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?|(?:-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>|([^\s,]+)'
)


def recorder(file: Path, beside: Sequence[int]) -> list[str]:
    """What to put before a command so that ``file`` gets all that it writes.

    Also what the running processes ``beside`` write, in the same order. It is ended by itself
    once they all ended, or by SIGTERM.
    """
    command = [tool("strace", "the recording of what is written"), "-I2", "-f", "-y", "-xx", "-qq"]
    command += ["-s", str(_LONGEST), "-o", str(file), "-e", f"trace={','.join(CALLS)}"]
    command += ["-e", "signal=none", "--seccomp-bpf"]
    for pid in beside:
        command += ["-p", str(pid)]
    return command


@dataclass(frozen=True)
class Call:
    """A system call that worked, on files below the roots."""

    name: str
    paths: tuple[str, ...]
    """What it is about: descriptors' files, and names."""
    data: bytes = b""
    offset: int = 0
    """Where data goes, or the length of a truncated file."""
    flags: str = ""

    @property
    def path(self) -> str:
        """The first of them."""
        return self.paths[0]

    @property
    def syncs(self) -> bool:
        """Whether it makes something durable."""
        return self.name in {"fsync", "fdatasync"}

    @property
    def removes(self) -> bool:
        """Whether it takes a name away."""
        return self.name in {"unlink", "unlinkat"}


@dataclass(frozen=True)
class Event:
    """A call begins (False) or has ended (True)."""

    call: Call
    ended: bool


def read(file: Path, roots: Sequence[Path]) -> list[Event]:
    """The recorded calls that worked, below ``roots``, in order."""
    calls: list[tuple[str, str, str, int, str]] = []
    marks: list[tuple[int, bool]] = []
    open_calls: dict[str, tuple[int, str]] = {}
    for line in file.read_text(encoding="latin-1").splitlines():
        if (found := _CALL.match(line)) is not None:
            calls.append((found[1], found[2], found[3], int(found[4]), found[5] or ""))
            marks += [(len(calls) - 1, False), (len(calls) - 1, True)]
        elif (found := _BEGUN.match(line)) is not None:
            open_calls[found[1]] = len(calls), found[3]
            marks.append((len(calls), False))
            calls.append((found[1], found[2], found[3], -1, ""))
        elif (found := _ENDED.match(line)) is not None:
            number, begun = open_calls.pop(found[1])
            calls[number] = (found[1], found[2], begun + found[3], int(found[4]), found[5] or "")
            marks.append((number, True))
    parsed = [_call(*call[1:], roots) if call[3] >= 0 else None for call in calls]
    return [Event(call, ended) for number, ended in marks if (call := parsed[number]) is not None]


def _call(
    name: str, arguments: str, result: int, opened: str, roots: Sequence[Path]
) -> Call | None:
    strings: list[bytes] = []
    places: list[str] = []
    words: list[str] = []
    for found in _ARGUMENT.finditer(arguments):
        if found[1] is not None:
            assert not found[2], f"cut short in the recording: {name}"
            strings.append(_bytes(found[1]))
        elif found[3] is not None:
            places.append(_bytes(found[3]).decode())
        else:
            words.append(found[4])
    paths: tuple[str, ...]
    if name in {"open", "openat", "creat"}:
        paths = (_bytes(opened).decode(),)
    elif name in {"write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate", "pwritev"}:
        paths = tuple(places)
    else:
        names = [string.decode() for string in strings]
        places = places or ["/"] * len(names)
        paths = tuple(
            f"{at}/{name}" if name[:1] != "/" else name
            for at, name in zip(places, names, strict=True)
        )
    if not any(path.startswith(f"{root}/") for root in roots for path in paths):
        return None
    assert name not in _UNKNOWN, f"not understood in a recording: {name}"
    data = b"".join(strings)[:result] if "write" in name else b""
    offset = int(words[-1]) if name in {"pwrite64", "ftruncate"} else 0
    return Call(name, paths, data, offset, words[0] if name in {"open", "openat"} else "")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass
class File:
    """A file: what was written, and what is on the disk for certain."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class Folder:
    """A directory: the names in it, and those that are on the disk for certain."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)


class Disk:
    """A file system below some roots; each began, on the disk, as the copy that it is given."""

    def __init__(self, roots: Mapping[Path, Path]) -> None:
        self._roots = {str(root): _found(copy) for root, copy in roots.items()}
        self._syncing: dict[int, Callable[[], None]] = {}

    def apply(self, event: Event) -> None:
        """Take the next event in."""
        call = event.call
        if call.syncs:
            self._sync(call, ended=event.ended)
        elif event.ended:
            self._change(call)

    def written(self, root: Path) -> dict[str, bytes]:
        """All files below a root, by relative path, as programs see them."""
        return dict(_files(self._roots[str(root)], "", durable=False))

    def durable(self, root: Path) -> dict[str, bytes]:
        """Those, and that of them, that a power loss leaves."""
        return dict(_files(self._roots[str(root)], "", durable=True))

    def _sync(self, call: Call, *, ended: bool) -> None:
        """What is there when it begins is on the disk when it has ended."""
        if ended:
            self._syncing.pop(id(call), lambda: None)()
            return
        node = self._at(call.path)
        if isinstance(node, File):
            self._syncing[id(call)] = partial(setattr, node, "synced", bytes(node.data))
        elif isinstance(node, Folder):
            self._syncing[id(call)] = partial(setattr, node, "synced", dict(node.names))

    def _change(self, call: Call) -> None:
        match call.name:
            case "open" | "openat" | "creat":
                self._open(call)
            case "write" | "writev":
                self._write(call, None)
            case "pwrite64":
                self._write(call, call.offset)
            case "ftruncate":
                node = self._at(call.path)
                if isinstance(node, File):
                    del node.data[call.offset :]
                    node.data.extend(bytes(call.offset - len(node.data)))
            case "mkdir" | "mkdirat":
                parent, name = self._parent(call.path)
                parent.names[name] = Folder()
            case "unlink" | "unlinkat":
                parent, name = self._parent(call.path)
                parent.names.pop(name, None)  # a socket isn't in the recording
            case "link" | "linkat" | "rename" | "renameat" | "renameat2":
                self._name_anew(call)
            case name:
                raise AssertionError(f"not understood in a recording: {name}")

    def _open(self, call: Call) -> None:
        if "O_CREAT" not in call.flags and call.name != "creat":
            return
        parent, name = self._parent(call.path)
        node = parent.names.setdefault(name, File())
        if isinstance(node, File) and "O_TRUNC" in call.flags:
            node.data.clear()

    def _write(self, call: Call, offset: int | None) -> None:
        """Without an offset it goes to the end: nothing here writes otherwise."""
        node = self._at(call.path)
        if not isinstance(node, File):
            return  # it has lost its last name
        at = len(node.data) if offset is None else offset
        node.data.extend(bytes(max(0, at - len(node.data))))
        node.data[at : at + len(call.data)] = call.data

    def _name_anew(self, call: Call) -> None:
        there, old = self._parent(call.paths[0])
        parent, name = self._parent(call.paths[1])
        parent.names[name] = there.names[old]
        if call.name.startswith("rename"):
            del there.names[old]

    def _at(self, path: str) -> File | Folder | None:
        if path in self._roots:
            return self._roots[path]
        for root, top in self._roots.items():
            if path.startswith(f"{root}/"):
                node: File | Folder | None = top
                for piece in path[len(root) + 1 :].split("/"):
                    node = node.names.get(piece) if isinstance(node, Folder) else None
                return node
        return None

    def _parent(self, path: str) -> tuple[Folder, str]:
        above, _, name = path.rpartition("/")
        parent = self._at(above)
        assert isinstance(parent, Folder), f"not seen in the recording: {above}"
        return parent, name


def lay(tree: Mapping[str, bytes], directory: Path) -> None:
    """Write such files below ``directory``."""
    for name, data in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)


def _found(directory: Path) -> Folder:
    folder = Folder()
    for path in directory.iterdir():
        if path.is_dir():
            folder.names[path.name] = _found(path)
        elif path.is_file():
            data = path.read_bytes()
            folder.names[path.name] = File(bytearray(data), data)
    folder.synced = dict(folder.names)
    return folder


def _files(folder: Folder, prefix: str, *, durable: bool) -> Iterator[tuple[str, bytes]]:
    for name, node in (folder.synced if durable else folder.names).items():
        if isinstance(node, File):
            yield f"{prefix}{name}", node.synced if durable else bytes(node.data)
        else:
            yield from _files(node, f"{prefix}{name}/", durable=durable)
