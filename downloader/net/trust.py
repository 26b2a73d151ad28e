"""The certificates that are trusted: one rule for the Hub and for registries.

Certificates that environment variables name are added to the system's; a registry may have a
directory of its own, as Docker and podman read them.

Source: Docker's manual, "Verify repository client with certificates"; containers-certs.d(5);
OpenSSL 3, ``SSL_CTX_set_default_verify_paths``.
"""

import contextlib
import re
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from urllib3.util.ssl_ import create_urllib3_context

from downloader.environment import Environment, Setting
from downloader.errors import InputError

# Python may be built for other paths than those of the machine that it runs on.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD, Alpine
)
_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.+?-----END (?:TRUSTED )?CERTIFICATE-----", re.DOTALL
)
_SUFFIXES = {".pem", ".crt", ".cer"}


@dataclass(frozen=True)
class Trust:
    """Certificates to trust, and client certificates to show.

    Args:
        files: PEM files beside the system's.
        dirs: Directories of PEM files; a value may list several, as ``PATH`` does.
        registry_dirs: Directories like ``/etc/docker/certs.d``.
    """

    files: tuple[Setting, ...] = ()
    dirs: tuple[Setting, ...] = ()
    registry_dirs: tuple[Path, ...] = ()

    def with_file(self, path: str | None) -> "Trust":
        """Return the same with the file of ``--ca-file``."""
        return replace(self, files=(*self.files, Setting("--ca-file", path))) if path else self

    def context(self, netloc: str = "") -> ssl.SSLContext:
        """Return a context that trusts these certificates.

        Args:
            netloc: The registry's host and port, for certificates of its own.

        Raises:
            InputError: A file is missing or holds no certificate; the message names the
                variable or flag.
        """
        context = create_urllib3_context()
        if sys.platform == "win32":
            context.load_default_certs()
        for setting, path in self.certificate_files():
            _load(context, setting, path)
        for setting in self.dirs:
            for directory in _split(setting.value):
                if not Path(directory).is_dir():
                    raise InputError(f"{setting.name}: {directory}: no such directory")
                context.load_verify_locations(capath=directory)
        for own in self._directories_of(netloc):
            _load_registry(context, own)
        return context

    def has_own(self, netloc: str) -> bool:
        """Whether a registry has certificates of its own."""
        return any(self._directories_of(netloc))

    def _directories_of(self, netloc: str) -> Iterator[Path]:
        names = {netloc, netloc.removesuffix(":443")} - {""}
        for parent in self.registry_dirs:
            for name in sorted(names):
                with contextlib.suppress(OSError):
                    if (parent / name).is_dir():
                        yield parent / name

    def certificate_files(self) -> Iterator[tuple[Setting, Path]]:
        """Yield the files with certificates to trust everywhere, the system's first."""
        system = _system_file()
        if system is not None:
            yield Setting("system certificates", str(system)), system
        for setting in self.files:
            yield setting, Path(setting.value)
        for setting in self.dirs:
            for directory in map(Path, _split(setting.value)):
                if directory.is_dir():
                    found = sorted(p for p in directory.iterdir() if p.suffix in _SUFFIXES)
                    yield from ((setting, path) for path in found)

    def bundle(self) -> bytes:
        """Return all of them as one PEM file, for a program that takes only one.

        Each certificate once: several variables often name the system's file, and BuildKit
        takes a secret of at most 500 KiB.

        Raises:
            InputError: A file cannot be read.
        """
        parts = [_read(setting, path) for setting, path in self.certificate_files()]
        found = dict.fromkeys(match for part in parts for match in _CERTIFICATE.findall(part))
        return b"\n".join([*found, b""])


def trust_of(environment: Environment) -> Trust:
    """Return what the environment trusts."""
    return Trust(environment.ca_files, environment.ca_dirs, environment.certificate_dirs)


def _split(text: str) -> list[str]:
    separator = ";" if sys.platform == "win32" else ":"
    return [item for item in text.split(separator) if item]


def _system_file() -> Path | None:
    # Not `get_default_verify_paths().cafile`: SSL_CERT_FILE would replace it.
    compiled = ssl.get_default_verify_paths().openssl_cafile
    for text in (compiled, *_SYSTEM_FILES):
        if Path(text).is_file():
            return Path(text)
    with contextlib.suppress(ImportError):  # a slim image without any; it comes with `hub`
        import certifi  # noqa: PLC0415

        return Path(certifi.where())
    return None


def _read(setting: Setting, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(setting, path, error) from error


def _unreadable(setting: Setting, path: Path, error: OSError) -> InputError:
    return InputError(
        f"{setting.name}: {path}: {(error.strerror or 'unreadable').lower()}",
        hint=f"correct or unset {setting.name}",
    )


def _load(context: ssl.SSLContext, setting: Setting, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        if setting.name == "SSL_CERT_DIR":
            return  # such a directory may hold revocation lists and keys as well
        raise InputError(
            f"{setting.name}: {path}: no PEM certificates in it",
            hint=f"correct or unset {setting.name}",
        ) from error
    except OSError as error:
        raise _unreadable(setting, path, error) from error


def _load_registry(context: ssl.SSLContext, directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        if path.suffix == ".crt":
            _load(context, Setting("registry certificates", str(path)), path)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            try:
                context.load_cert_chain(path, key)
            except (OSError, ssl.SSLError) as error:
                raise InputError(
                    f"{path}: want a client certificate with its key {key.name}, got"
                    f" {error.strerror or 'something else'}"
                ) from error
