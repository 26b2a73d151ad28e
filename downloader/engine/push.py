"""``docker push``, retried: which failures are tried again, and the errors of the rest."""

import re
import time
from collections import deque

from downloader.engine.docker import Engine
from downloader.engine.heartbeat import heartbeat
from downloader.errors import EngineError, HfModelsError, RegistryError, TransportError
from downloader.net.retry import RetryPolicy, is_passing
from downloader.progress import Progress

_DIGEST = re.compile(r"digest: (?P<digest>sha256:[0-9a-f]{64}) size: \d+")
_STATUS = re.compile(
    r"(?:status(?: code)?|response|HTTP/1\.1|HTTP/2)[^0-9\n]{0,60}?\b(?P<status>[45]\d\d)\b",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"denied|unauthorized|authentication required|no basic auth|forbidden|"
    r"name unknown|repository does not exist|insufficient.scope|not found|invalid",
    re.IGNORECASE,
)
_LIMITED = re.compile(r"too ?many ?requests", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"connection re(?:set|fused)|broken pipe|\beof\b|timeout|timed out|deadline exceeded|"
    r"no such host|server misbehaving|temporary failure|network is unreachable|no route to host|"
    r"closed network connection",
    re.IGNORECASE,
)
_TAIL_LINES = 20


def push_image(engine: Engine, name: str, progress: Progress) -> str:
    """Push an image under its own name, and return the digest of what the registry has.

    Args:
        engine: Has the image, and Docker's own credentials.
        name: ``REGISTRY/NAME:TAG``.
        progress: Told what happens, as notes.

    Raises:
        RegistryError: The registry said no.
        TransportError: The registry cannot be reached, after the retries.
        EngineError: The engine said no.
    """
    waits = RetryPolicy()
    failures = 0
    while True:
        try:
            return _push_once(engine, name, progress)
        except (RegistryError, TransportError) as error:
            failures += 1
            delay_s = waits.delay_s(failures) if _is_passing(error) else None
            if delay_s is None:
                raise
            progress.note(f"{error.message}; trying again in {delay_s:g} s")
        time.sleep(delay_s)


def _is_passing(error: RegistryError | TransportError) -> bool:
    if isinstance(error, RegistryError):
        return is_passing(error.status or 0)
    return bool(_NO_ANSWER.search(error.message))


def _push_once(engine: Engine, name: str, progress: Progress) -> str:
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def feed(line: str) -> None:
        tail.append(line)
        if line.endswith((": Pushed", ": Layer already exists")):
            progress.note(f"push {name}: layer {line}")

    # docker tells a pipe nothing while a layer is on its way
    with heartbeat(feed, lambda: f"push {name}", progress) as feed_heard:
        code = engine.stream(["push", name], feed_heard)
    found = _DIGEST.search("\n".join(tail))
    if code == 0 and found:
        return found["digest"]
    raise push_error(name, next((line for line in reversed(tail) if line), "no reason given"))


def push_error(name: str, said: str) -> HfModelsError:
    """Return the error behind the last line of a failed ``docker push``.

    >>> push_error("r.example/a:b", "denied: requested access to the resource is denied")
    RegistryError('push r.example/a:b: denied: requested access to the resource is denied')
    """
    text = f"push {name}: {said}"
    status = int(found["status"]) if (found := _STATUS.search(said)) else None
    if status is None and _LIMITED.search(said):
        status = 429
    if status is not None and is_passing(status):
        return RegistryError(text, status=status, hint="the registry is busy; run it again later")
    if status is not None or _REFUSED.search(said):
        return RegistryError(text, status=status, hint="check the name, and `docker login`")
    if _NO_ANSWER.search(said):
        return TransportError(text, hint="check the network and the registry's address")
    if "failed to do request" in said:  # certificates, or a server that speaks no TLS
        return TransportError(text, hint="check the registry's address and certificate")
    return EngineError(text)
