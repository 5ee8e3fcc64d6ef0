"""``[studies."UUID"]``: studies that the config answers, and the public keys that they name."""

from __future__ import annotations

import re
from pathlib import Path

from daemon.config_file import Issues, Key, StudyTable, absolute, describe
from daemon.settings import Study

MAX_RECIPIENT = 64 * 1024
"""Bytes that a file of public keys may hold."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


class StudyReader:
    """Makes studies of their tables, and reads the key files."""

    def __init__(self, file: Path, issues: Issues, destinations: frozenset[str]) -> None:
        self._file = file
        self._issues = issues
        self._destinations = destinations

    def read(self, tables: dict[str, StudyTable]) -> dict[str, Study]:
        """The studies by their lower-case UUIDs. What can't be used is noted."""
        studies: dict[str, Study] = {}
        for name, table in tables.items():
            key = ("studies", name)
            identifier = name.lower()
            if not _UUID.fullmatch(name):
                self._issues.add(key, "expected a UUID, as 8-4-4-4-12 hexadecimal digits")
            elif identifier in studies:
                self._issues.add(key, "there twice: a UUID's case makes no difference")
            studies[identifier] = self._study(key, identifier, table)
        return studies

    def _study(self, key: Key, identifier: str, table: StudyTable) -> Study:
        if not table.destinations:
            self._issues.add((*key, "destinations"), "missing, expected at least one destination")
        for destination in table.destinations:
            if destination not in self._destinations:
                listed = ", ".join(sorted(self._destinations)) or "none"
                self._issues.add(
                    (*key, "destinations"),
                    f"{describe(destination)} is no destination; known: {listed}",
                )
        if len(set(table.destinations)) != len(table.destinations):
            self._issues.add((*key, "destinations"), "names a destination twice")
        recipients = self._recipients((*key, "recipients"), table)
        if table.encrypt != "none" and not table.recipients:
            self._issues.add(
                (*key, "recipients"), f'missing, expected for encrypt = "{table.encrypt}"'
            )
        return Study(
            id=identifier,
            encrypt=table.encrypt,
            recipients=recipients,
            destinations=table.destinations,
            open=table.open,
            max_size=None if table.max_size is None else int(table.max_size),
        )

    def _recipients(self, key: Key, table: StudyTable) -> tuple[str, ...]:
        found: list[str] = []
        for entry in table.recipients:
            if entry.startswith("age1"):
                found.append(entry)
            elif entry.startswith(("ssh-", "AGE-SECRET-KEY-", "-----BEGIN")):
                self._issues.add(key, "found a key's text, expected key files or age1… recipients")
            else:
                text = self._recipient_file(key, entry)
                found.extend(_age_lines(text) if table.encrypt == "age" else (text,))
        return tuple(found)

    def _recipient_file(self, key: Key, entry: str) -> str:
        path = absolute(self._file, self._issues, key, entry)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_RECIPIENT + 1)
        except OSError as error:
            self._issues.add(
                key, f"{path}: can't be read: {error.strerror}; expected a public key file"
            )
            return ""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = ""
        if not text.strip() or len(content) > MAX_RECIPIENT:
            self._issues.add(key, f"{path}: expected the text of a public key")
        # Nothing of a secret key may get any further, not even into a report's error.
        if "PRIVATE KEY" in text or "SECRET-KEY" in text:
            self._issues.add(key, f"{path}: holds a secret key, expected the public one")
            return ""
        return text


def _age_lines(text: str) -> list[str]:
    """The recipients of an age recipients file: one a line, ``#`` comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
