"""``hf-models serve``: a Hub out of images."""

import click

from downloader.cli.command import examples
from downloader.cli.console import say
from downloader.cli.options import (
    Seconds,
    gathered,
    memory_option,
    network_options,
)
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.fs import expand_home
from downloader.library.connection import Connection
from downloader.library.serving import serve as run_server
from downloader.serve import ServeOptions
from downloader.serve.contents import ServeBounds
from downloader.serve.server import DEFAULT_HOST, DEFAULT_PORT, note_line
from downloader.units import MIB, parse_size

_SMALLEST_MEMORY_BYTES = 4 * MIB  # below, the pieces of a few clients are a network packet each
_TOKEN_LIMIT_BYTES = 4096


def serve_options_of(
    sources: tuple[str, ...],
    listen: str,
    token_file: str | None,
    public: bool,
    cache_dir: str | None,
    cache_size: str | None,
    no_cache: bool,
    refresh: float,
    connections: int,
    memory: str,
    clients: int,
    grace_s: int,
    log_format: str,
) -> ServeOptions:
    """Return what the flags of ``serve`` say.

    Raises:
        InputError: They do not go together, or one of them says nothing.
    """
    if no_cache and (cache_dir or cache_size):
        flag = "--cache-dir" if cache_dir else "--cache-size"
        raise InputError(f"--no-cache and {flag} exclude each other")
    host, port = _parse_listen(listen)
    memory_bytes = parse_size(memory)
    if memory_bytes < _SMALLEST_MEMORY_BYTES:
        raise InputError(f"want at least 4MiB of memory, got {memory}")
    return ServeOptions(
        sources,
        host,
        port,
        None if no_cache else read_environment().cache_dir(cache_dir),
        parse_size(cache_size) if cache_size else None,
        refresh,
        _read_token(token_file) if token_file else None,
        public,
        ServeBounds(connections, memory_bytes),
        clients,
        grace_s,
        log_format,
    )


@click.command(
    epilog=examples(
        "serve ghcr.io/me/hf-models",
        "serve dist/ --listen 0.0.0.0:8765 --token-file token --no-cache",
    )
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--listen",
    default=f"{DEFAULT_HOST}:{DEFAULT_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where clients reach it.",
)
@click.option("--token-file", metavar="FILE", help="Clients must send the token in it (HF_TOKEN).")
@click.option("--public", is_flag=True, help="Serve all clients without a token.")
@click.option(
    "--cache-dir", metavar="DIR", help="Where files are brought in.  [default: HF_HUB_CACHE]"
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help="Of what serve puts there; oldest unused first out.  [default: the disk's]",
)
@click.option("--no-cache", is_flag=True, help="Keep nothing; ranges are then sent unchecked.")
@click.option(
    "--refresh",
    type=Seconds(0, 86_400 * 7),
    default=ServeOptions.refresh_s,
    show_default=True,
    metavar="SECONDS",
    help="How often tags are looked up again; 0 for never.",
)
@network_options
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=ServeBounds.connections,
    show_default=True,
    help="Reads of sources at once.",
)
@memory_option
@click.option(
    "--clients",
    type=click.IntRange(1, 100_000),
    default=ServeOptions.clients,
    show_default=True,
    help="Connections at once; more are told to come again.",
)
@click.option(
    "--grace",
    "grace_s",
    type=click.IntRange(0, 3600),
    default=ServeOptions.grace_s,
    show_default=True,
    metavar="SECONDS",
    help="For running answers after SIGTERM.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@gathered("options", serve_options_of)
def serve(options: ServeOptions, connection: Connection) -> None:
    """Serve images as a Hugging Face Hub: set HF_ENDPOINT, keep the ids.

    SOURCE is a repository of a registry (all its tags), one image, an OCI layout directory or a
    directory of them like dist/, an archive, or a Hugging Face cache.
    """
    run_server(
        options,
        log=say,
        started=lambda url: say(note_line(f"export HF_ENDPOINT={url}", options.log_format)),
        connection=connection,
    )


def _parse_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise InputError(
            f"--listen: want HOST:PORT like {DEFAULT_HOST}:{DEFAULT_PORT}, got {text!r}"
        )
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - asked for by ":8765"


def _read_token(name: str) -> str:
    path = expand_home(name)
    try:
        with path.open("rb") as file:
            data = file.read(_TOKEN_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"--token-file: {path}: {error.strerror}") from error
    token = data.decode("ascii", "replace").strip()
    if len(data) > _TOKEN_LIMIT_BYTES:
        raise InputError(f"--token-file: {path}: want at most {_TOKEN_LIMIT_BYTES} bytes, got more")
    if not token or not token.isprintable() or " " in token or not token.isascii():
        raise InputError(f"--token-file: {path}: want one line of ASCII letters and digits")
    return token
