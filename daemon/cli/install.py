"""`dropoffd install`: writes what connects dropoffd with its neighbours."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.install_amqp import RUSTUS_ENVIRONMENT, environment
from daemon.cli.install_files import PLAIN_PATH, filled, is_ours, write
from daemon.cli.install_nginx import OPERATORS, add_options, nginx
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.settings import Settings

SERVERS = ("tusd", "tusd1", "rustus")
RUSTUS_FILE = "rustus-file"
"""The hook for ``rustus --hooks-file``, which calls the others."""
_POST_HOOKS = ("post-create", "post-receive", "pre-finish", "post-finish", "post-terminate")
# rustus fails where the file of a hook is missing that it wants to call.
_RUSTUS_HOOKS = ("post-create", "post-receive", "post-finish", "pre-terminate", "post-terminate")
_MARGIN_SECONDS = 5


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    from daemon.cli.options import add_config, add_json  # noqa: PLC0415 - quick --help

    parser = commands.add_parser(
        "install",
        help="write hooks, nginx files or units",
        description="Write the files that connect dropoffd with a tus server, with nginx or with"
        " systemd, filled in for the config. Files of others are never replaced.",
    )
    parser.add_argument("what", choices=("hooks", "nginx", "systemd"))
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, required=True, help="where to write them"
    )
    parser.add_argument(
        "--server", choices=SERVERS, default="tusd", help="which tus server (tusd: version 2)"
    )
    add_options(parser)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=install)


def install(arguments: argparse.Namespace) -> int:
    """Run `dropoffd install`."""
    from daemon.cli.options import places  # noqa: PLC0415 - quick --help
    from daemon.cli.output import print_json  # noqa: PLC0415 - quick --help

    directory: Path = arguments.directory.absolute()
    if arguments.what == "hooks":
        texts = hooks(places(arguments), arguments.server)
        mode = 0o755
    else:
        settings = _settings_if_any(arguments)
        nginx_wanted = arguments.what == "nginx"
        texts = _nginx(arguments, settings, directory) if nginx_wanted else units(settings)
        mode = 0o644
    foreign = [name for name, text in texts.items() if not is_ours(directory / name, text)]
    if foreign:
        for name in foreign:
            sys.stderr.write(f"dropoffd: {directory / name} is not ours; move it away first\n")
        return 1
    written = [directory / name for name in texts]
    for path in written:
        # Nobody runs a file of settings.
        of_its_own = 0o644 if path.name == RUSTUS_ENVIRONMENT else mode
        write(path, texts[str(path.relative_to(directory))], of_its_own)
    if arguments.json:
        print_json({"written": [str(path) for path in written]})
    else:
        sys.stdout.writelines(f"{path}\n" for path in written)
    return 0


def hooks(settings: Settings, server: str, client: Path | None = None) -> dict[str, str]:
    """The texts of a tus server's hooks, by name.

    ``client`` is the program that speaks with the socket, curl or python3; the quicker one that
    is there unless given. Raises ConfigError where there is none.
    """
    program = client or _client()
    share = files("daemon") / "share" / "hooks"
    ask = "ask-curl" if program.name == "curl" else "ask-python"
    fields = {
        "SERVER": shlex.quote(server),
        "SOCKET": shlex.quote(str(settings.hooks.socket)),
        "SPOOL": shlex.quote(str(settings.spool)),
        # Longer than the daemon takes, so that its own words for it come first.
        "SECONDS": str(math.ceil(settings.hooks.timeout) + _MARGIN_SECONDS),
        "CLIENT": shlex.quote(str(program)),
    }
    fields["ASK"] = filled(share / ask, fields).rstrip("\n")
    post = filled(share / "post", fields)
    names = _RUSTUS_HOOKS if server == "rustus" else _POST_HOOKS
    texts = {"pre-create": filled(share / "pre-create", fields)} | dict.fromkeys(names, post)
    if server == "rustus":
        texts[RUSTUS_FILE] = filled(share / "rustus-file", fields)
        if settings.hooks.amqp is not None:
            texts[RUSTUS_ENVIRONMENT] = environment(settings.hooks.amqp)
    return texts


def units(settings: Settings | None) -> dict[str, str]:
    """The texts of the systemd files, by path; for the paths of the settings, if there are any."""
    source: Traversable = files("daemon") / "share" / "systemd"
    if not source.is_dir():
        source = Path(__file__).parents[2] / "systemd"  # in a checkout
    texts = _texts(source)
    replacements = _unit_paths(settings)
    for name, text in texts.items():
        for old, new in replacements.items():
            text = text.replace(old, new)  # noqa: PLW2901 - one replacement after the other
        texts[name] = text
    return texts


def _unit_paths(settings: Settings | None) -> dict[str, str]:
    program = Path(sys.executable).with_name("dropoffd")
    paths = {"/opt/dropoffd/bin/dropoffd": str(program)} if program.exists() else {}
    if settings is None:
        return paths
    if settings.file is not None:
        paths["/etc/dropoffd/config.toml"] = str(settings.file)
    writable = [settings.uploads.directory, settings.uploads.info_directory, settings.spool]
    usual = Path("/var/lib/dropoffd")
    if settings.state != usual:
        writable.append(settings.state)
    line = "ReadWritePaths=" + " ".join(f"-{path}" for path in dict.fromkeys(writable))
    paths["ReadWritePaths=-/srv/tusd -/var/spool/dropoffd"] = line
    paths["d /srv/tusd "] = f"d {settings.uploads.directory} "
    paths["d /var/spool/dropoffd"] = f"d {settings.spool}"
    for path in (program, settings.file, *writable):
        if path is not None and not PLAIN_PATH.fullmatch(str(path)):
            raise ConfigError(f"{path}: expected a path without spaces and such, for systemd")
    return paths


def _texts(source: Traversable, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in sorted(source.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            found |= _texts(entry, f"{prefix}{entry.name}/")
        else:
            found[prefix + entry.name] = entry.read_text(encoding="utf-8")
    return found


def _nginx(
    arguments: argparse.Namespace, settings: Settings | None, directory: Path
) -> dict[str, str]:
    texts = nginx(
        settings,
        directory,
        server=arguments.server,
        prefix=arguments.prefix,
        upstream=arguments.upstream,
    )
    for name in OPERATORS.intersection(texts):
        if os.path.lexists(directory / name) and not is_ours(directory / name, texts[name]):
            sys.stderr.write(f"dropoffd: {directory / name} is left as it is\n")
            del texts[name]
    return texts


def _settings_if_any(arguments: argparse.Namespace) -> Settings | None:
    from daemon.cli.options import places  # noqa: PLC0415 - quick --help
    from daemon.config import find  # noqa: PLC0415 - quick --help

    try:
        find(arguments.config, os.environ)
    except ConfigError:
        return None  # units can be set up before there is a config
    return places(arguments)


def _client() -> Path:
    """What speaks with the socket: curl answers in two thirds of python3's time."""
    for name in ("curl", "python3"):
        usual = Path("/usr/bin") / name
        if usual.exists():
            return usual
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise ConfigError("neither curl nor python3 is installed, expected one for the pre-create hook")
