"""nginx with njs, as Debian has them, in front of a tus server: by the files that we install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from daemon.cli import main
from tests.peers import cache
from tests.peers.process import ServerProcess
from tests.peers.tusd import free_port

MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")

_MAIN = """\
{user}
load_module {module};
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    include {vhost};
}}
"""


def program() -> str:
    """The path of nginx. Raises PeerMissingError where it or its module isn't installed."""
    # Not on the PATH of those who may not administer the machine.
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None or not MODULE.exists():
        raise cache.PeerMissingError(
            "no nginx with njs; apt-get install nginx-light libnginx-mod-http-js"
        )
    return found


class Nginx(ServerProcess):
    """nginx on a free port of the loopback; use it as a context manager.

    Args:
        directory: Gets its configuration, logs and temporary files.
        upstream: Where the tus server takes uploads.
        options: Further arguments of `dropoffd install nginx`.
        certificate: With it and its key, in files, it speaks TLS.
    """

    def __init__(
        self,
        directory: Path,
        upstream: str,
        options: Sequence[str] = (),
        *,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        nginx = program()
        self.directory = directory
        self.installed = directory / "installed"
        directory.mkdir(parents=True, exist_ok=True)
        command = ["install", "nginx", "--directory", str(self.installed), "--upstream", upstream]
        if main([*command, *options]) != 0:
            raise AssertionError("dropoffd install nginx failed")
        port = free_port()
        vhost = directory / "vhost.conf"
        written = (self.installed / "tus.vhost.conf").read_text()
        vhost.write_text(_edited(written, port, certificate))
        self.file = directory / "nginx.conf"
        # Started as root, nginx would give its worker to a user that may not be here.
        user = "user root;" if os.geteuid() == 0 else ""
        self.file.write_text(_MAIN.format(user=user, module=MODULE, place=directory, vhost=vhost))
        arguments = ["-p", str(directory), "-c", str(self.file), "-e", f"{directory}/error.log"]
        self._test = [nginx, "-t", *arguments]
        super().__init__([nginx, *arguments], port, directory / "nginx.log")

    @property
    def errors(self) -> str:
        """Its error log."""
        return (self.directory / "error.log").read_text()

    def url(self, study: str, prefix: str = "/uploads") -> str:
        """Where uploads of a study are made."""
        return f"http://127.0.0.1:{self.port}{prefix}/{study}/"

    def test(self) -> str:
        """`nginx -t`: what it says. Raises CalledProcessError where it finds a mistake."""
        done = subprocess.run(self._test, capture_output=True, text=True, check=True)
        return done.stderr


def _edited(vhost: str, port: int, certificate: tuple[Path, Path] | None) -> str:
    """The host's file as its owner edits it."""
    if certificate is None:
        return vhost.replace("listen 80;", f"listen 127.0.0.1:{port};")
    vhost = vhost.replace("    listen 80;\n", "").replace("    server_name _;\n", "")
    vhost = re.sub(r"(?m)^    #(listen 443|server_name|ssl_)", r"    \1", vhost)
    vhost = vhost.replace("listen 443", f"listen 127.0.0.1:{port}")
    for name, path in zip(("ssl_certificate", "ssl_certificate_key"), certificate, strict=True):
        vhost = re.sub(rf"(?m)^    {name} .*;$", f"    {name} {path};", vhost)
    return vhost
