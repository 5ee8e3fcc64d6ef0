"""A small world for fault tests: a daemon, some uploads laid down as tusd does, and the oracle."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.envelope import keys
from tests.peers import traces
from tests.peers.dropoffd import Dropoffd
from tests.peers.openers import Crypt4gh
from tests.peers.oracle import Evidence, Failing, Sent, judge
from tests.peers.reference_api import ReferenceServer
from tests.peers.sending import Wanted, made
from tests.peers.stores import Store
from tests.peers.tusd_files import lay_hook, lay_info
from tests.peers.verdicts import Verdict


class Recipient:
    """Whom everything is sealed for, and who opens it again."""

    def __init__(self, directory: Path) -> None:
        pair = keys.crypt4gh_generate()
        self.file = directory / "recipient.pub"
        self.file.write_text(pair.public)
        self.secret_key = keys.crypt4gh_secret(pair.secret, lambda: b"")

    def study(self, study: str, destinations: Sequence[str]) -> str:
        """A study of the REST API that delivers to ``destinations``, TOML."""
        return (
            f'[studies."{study}"]\nencrypt = "crypt4gh"\nrecipients = ["{self.file}"]\n'
            f"destinations = {json.dumps(list(destinations))}\n"
        )


class Scene:
    """A directory of its own, uploads in it, and daemons that come and go there.

    Args:
        directory: Where all of it is.
        study: Of all uploads; the REST API has the plan for it.
        recipient: Who opens them.
        stores: The destinations by name, to be looked into.
        config: TOML for the daemon, the destinations' tables included.
        secrets: Of the destinations.
        ids: Gives each upload its tus id.
    """

    def __init__(
        self,
        directory: Path,
        study: str,
        recipient: Recipient,
        stores: Mapping[str, Store],
        config: str,
        secrets: Mapping[str, str],
        ids: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.stores = stores
        self.sent: list[Sent] = []
        self._study = study
        self._recipient = recipient
        self._secrets = dict(secrets)
        self._config = config
        self._ids = ids
        self._to_come: dict[Path, bytes] = {}

    def lay(self, *sizes: int, told: bool = False) -> None:
        """Lay complete uploads of these sizes down; hooks have told of them where ``told``."""
        uploads = self.directory / "daemon" / "uploads"
        uploads.mkdir(parents=True, exist_ok=True)
        for size in sizes:
            tus_id = self._ids()
            filename = f"{size}.bam"
            file, sha256 = made(Wanted(self._study, filename, size, int(tus_id[:8], 16)))
            with file:
                (uploads / tus_id).write_bytes(file.read())
            lay_info(uploads / tus_id, size, {"filename": filename, "study": self._study})
            if told:
                lay_hook(self.directory / "daemon" / "spool", "post-finish", uploads / tus_id, size)
            self.sent.append(Sent(tus_id, self._study, filename, size, sha256))

    def hold_back(self, there: int) -> None:
        """Of each upload only ``there`` bytes have come so far."""
        for sent in self.sent:
            file = self.directory / "daemon" / "uploads" / sent.tus_id
            self._to_come[file] = file.read_bytes()[there:]
            os.truncate(file, there)

    def let_come(self) -> None:
        """The rest of what was held back comes, as a tus server appends it."""
        while self._to_come:
            file, rest = self._to_come.popitem()
            with file.open("ab") as data:
                data.write(rest)

    def daemon(self, api_url: str, **environment: str) -> Dropoffd:
        """A daemon there, not started, that has the reference REST API at ``api_url``."""
        hawk = ReferenceServer.asked_at(api_url)
        return Dropoffd(self.directory / "daemon", self._config, hawk | self._secrets | environment)

    def watch(self, daemon: Dropoffd) -> None:
        """No process of it shows a secret while it runs."""
        assert traces.check_processes(daemon, self._hidden)

    def check(self, daemon: Dropoffd, api: ReferenceServer, failing: Iterable[str] = ()) -> None:
        """Everything is as it has to be once all uploads are over."""
        self.judge(daemon, api, failing).hold()

    def judge(self, daemon: Dropoffd, api: ReferenceServer, failing: Iterable[str] = ()) -> Verdict:
        """What the oracle says once all uploads are over.

        ``failing`` are the tus ids of those that have to fail.
        """
        ours = {upload.tus_id for upload in self.sent}
        drops = [drop for drop in api.drops() if _tus_ids(drop["reports"]) & ours]
        opener = Crypt4gh(self._recipient.secret_key)
        expected = dict.fromkeys(failing, Failing())
        return judge(
            Evidence(daemon, self.sent, drops, self.stores, opener, self._hidden, expected)
        )

    @property
    def _hidden(self) -> list[str]:
        return [*self._secrets.values(), ReferenceServer.secret]


def _tus_ids(reports: Sequence[Mapping[str, object]]) -> set[object]:
    return {report["tus_id"] for report in reports}
