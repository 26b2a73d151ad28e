"""The Docker engine, through its own command: build, inspect, disk, tag, push.

The ``docker`` command and not the engine's API, because it alone knows the user's contexts,
TLS files and credential helpers.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downloader.document import load_object
from downloader.engine.heartbeat import heartbeat
from downloader.engine.log import BuildLog
from downloader.errors import EngineError
from downloader.progress import Progress

INSTALL_HINT = "install Docker Engine 23 or newer with buildx"
_STOP_TIMEOUT_S = 15.0  # buildx cancels its build on SIGINT; then it is killed
_CONTAINERD_STORE = "io.containerd.snapshotter.v1"
_DF_FREE = re.compile(r"^\S+\s+\d+\s+\d+\s+(?P<free_kib>\d+)\s+\d+%\s", re.MULTILINE)


@dataclass(frozen=True)
class ImageInfo:
    """An image in the engine.

    Args:
        id: ``sha256:...``.
        size_bytes: As the engine counts it.
        labels: Of its config.
        repo_digests: ``NAME@sha256:...`` for every registry it came from or went to.
    """

    id: str
    size_bytes: int
    labels: Mapping[str, str]
    repo_digests: tuple[str, ...]


@dataclass(frozen=True)
class BuildRequest:
    """One build.

    Args:
        context: The build context.
        dockerfile: The Dockerfile.
        image: ``NAME:TAG``.
        build_args: Recorded by the engine, so never a secret.
        passed_args: Predefined arguments (proxies) whose values come from the environment;
            the engine records none of them.
        labels: Of the image.
        secret_values: Secrets by id; they go through the environment of the child.
        secret_files: Secrets by id, as files.
        host_network: Whether the builder shares the network of the engine's machine.
    """

    context: Path
    dockerfile: Path
    image: str
    build_args: Mapping[str, str] = field(default_factory=dict)
    passed_args: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    secret_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_files: Mapping[str, Path] = field(default_factory=dict)
    host_network: bool = False

    def secret_environment(self) -> dict[str, str]:
        """Return the variables that carry the secrets to the child."""
        return {_secret_variable(name): value for name, value in self.secret_values.items()}

    def arguments(self, builder: str) -> list[str]:
        """Return the arguments of ``docker``.

        Args:
            builder: Name of the BuildKit; the engine's own, so that the image ends in the engine.
        """
        # Provenance would carry the time of the build, and so a new image id each time.
        fixed = ["--progress=plain", "--provenance=false", "--sbom=false"]
        # The engine unpacks an image when it first runs it; most are only pushed, and an
        # unpacked copy is one model more on its disk.
        kept = "compression=uncompressed,oci-mediatypes=true,unpack=false"
        output = f"type=image,name={self.image},{kept}"
        return [
            *("buildx", "build", f"--builder={builder}", *fixed, f"--output={output}"),
            f"--file={self.dockerfile}",
            *(["--network=host"] if self.host_network else []),
            *(f"--build-arg={name}={value}" for name, value in self.build_args.items()),
            *(f"--build-arg={name}" for name in self.passed_args),
            *(f"--label={name}={value}" for name, value in self.labels.items()),
            *(f"--secret=id={name},env={_secret_variable(name)}" for name in self.secret_values),
            *(f"--secret=id={name},src={path}" for name, path in self.secret_files.items()),
            str(self.context),
        ]


def _secret_variable(name: str) -> str:
    return f"HF_MODELS_SECRET_{name.upper()}"


@dataclass(frozen=True)
class Engine:
    """A Docker engine, as ``docker`` finds it.

    Args:
        environment: The user's variables: ``DOCKER_HOST``, ``DOCKER_CONFIG``, proxies.
    """

    environment: Mapping[str, str] = field(repr=False)

    def check(self) -> bool:
        """Return whether the engine can keep layers uncompressed: in a containerd store.

        Raises:
            EngineError: ``docker`` or buildx is missing, or the engine does not answer.
        """
        document = self._info_document()
        if self._run("buildx", "version").returncode != 0:
            raise EngineError("docker buildx: not found", hint=INSTALL_HINT)
        status = dict(pair for pair in document.get("DriverStatus") or [] if len(pair) == 2)
        return bool(status.get("driver-type") == _CONTAINERD_STORE)

    def _info_document(self) -> dict[str, Any]:
        done = self._run("info", "--format", "{{json .}}")
        document = load_object(done.stdout) or {}
        errors = document.get("ServerErrors") or []
        if done.returncode != 0 or errors or "ServerVersion" not in document:
            reason = errors[0] if errors else _last_line(done.stderr)
            raise EngineError(
                f"no Docker engine answers: {reason}", hint="start Docker, or check DOCKER_HOST"
            )
        return document

    def inspect(self, image: str) -> ImageInfo | None:
        """Return what the engine knows of an image, None where it has none of that name.

        Raises:
            EngineError: The engine said something else.
        """
        done = self._run("image", "inspect", image)
        if done.returncode != 0:
            if "no such image" in done.stderr.lower() or "not found" in done.stderr.lower():
                return None
            raise EngineError(f"docker image inspect {image}: {_last_line(done.stderr)}")
        document = json.loads(done.stdout)[0]
        return ImageInfo(
            id=document["Id"],
            size_bytes=int(document.get("Size") or 0),
            labels=(document.get("Config") or {}).get("Labels") or {},
            repo_digests=tuple(document.get("RepoDigests") or ()),
        )

    def free_bytes(self, image: str) -> int | None:
        """Return the free bytes where the engine keeps images, None where it cannot be asked.

        A container sees the engine's own disk as its root, wherever that machine is.

        Args:
            image: Any image with ``df``.
        """
        done = self._run("run", "--rm", "--network=none", "--entrypoint=df", image, "-Pk", "/")
        found = _DF_FREE.search(done.stdout) if done.returncode == 0 else None
        return int(found["free_kib"]) * 1024 if found else None

    def build(self, request: BuildRequest, progress: Progress) -> None:
        """Build an image; its layers stay uncompressed where the engine can keep them so.

        Raises:
            HfModelsError: The error of the builder stage, as the same command would
                raise it here.
            EngineError: The engine said no.
        """
        log = BuildLog(progress)
        arguments = request.arguments(self._own_builder())
        # BuildKit says nothing while it exports layers, which takes minutes for a large model.
        with heartbeat(log.feed, lambda: log.step, progress) as feed:
            code = self.stream(arguments, feed, request.secret_environment())
        if code != 0:
            raise log.failure()

    def _own_builder(self) -> str:
        done = self._run("context", "show")
        return done.stdout.strip() or "default"

    def tag(self, image: str, name: str) -> None:
        """Give an image another name.

        Raises:
            EngineError: The engine said no.
        """
        done = self._run("image", "tag", image, name)
        if done.returncode != 0:
            raise EngineError(f"docker tag {image} {name}: {_last_line(done.stderr)}")

    def untag(self, name: str) -> None:
        """Take a name from an image; the image stays where it has another."""
        self._run("image", "rm", "--no-prune", name)

    def stream(
        self,
        arguments: Sequence[str],
        feed: Callable[[str], None],
        variables: Mapping[str, str] | None = None,
    ) -> int:
        """Run ``docker``, hand over its lines as they come, and return its exit code.

        Args:
            arguments: Of ``docker``.
            feed: Gets every line of output and errors.
            variables: More environment for the child.
        """
        with self._child(arguments, variables or {}) as child:
            assert child.stdout is not None  # noqa: S101 - a pipe was asked for
            for line in child.stdout:
                feed(line.rstrip("\n"))
            return child.wait()

    @contextmanager
    def _child(
        self, arguments: Sequence[str], variables: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[str]]:
        try:
            child = subprocess.Popen(
                ["docker", *arguments],
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except FileNotFoundError:
            raise _docker_missing() from None
        with child:
            try:
                yield child
            except BaseException:
                _stop(child)
                raise

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["docker", *arguments],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            raise _docker_missing() from None


def _stop(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=_STOP_TIMEOUT_S)
        return
    child.kill()


def _docker_missing() -> EngineError:
    return EngineError("docker: not found in PATH", hint=INSTALL_HINT)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
