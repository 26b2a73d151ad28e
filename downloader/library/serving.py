"""A Hub out of images, for as long as the process runs."""

from downloader.environment import Environment
from downloader.fs import expand_home
from downloader.library.connection import Connection, open_session, references_of
from downloader.progress import Note, ignore
from downloader.restore import parse_source
from downloader.serve import ServeOptions
from downloader.serve import serve as run_server


def serve(
    options: ServeOptions,
    environment: Environment | None = None,
    *,
    log: Note = ignore,
    started: Note = ignore,
    connection: Connection | None = None,
) -> None:
    """Serve images as a Hugging Face Hub until SIGTERM or Ctrl-C.

    Args:
        options: Sources, clients and limits.
        environment: None for the process's own.
        log: Told one line at a time, of every request too.
        started: Told the address, once the server listens: the ``HF_ENDPOINT`` of clients.
        connection: Settings for registries, over those of the environment.

    Raises:
        InputError: A source that names nothing, an address that is taken or not this machine's,
            or one that others reach without a token.
        RegistryError: A registry refuses a source at the first look.
    """
    named = [
        parse_source(text, lambda _: False)
        for text in options.sources
        if not expand_home(text).is_dir()
    ]
    with open_session(connection, environment, references=references_of(named)) as session:
        run_server(options, session.network, log, started)
