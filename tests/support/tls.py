"""Certificates that sign themselves, for servers of the tests."""

from pathlib import Path

from tests.support.command import call


def make_certificate(directory: Path, name: str, subject_alternative: str) -> tuple[Path, Path]:
    """Write ``cert.pem`` and ``key.pem``, and return them.

    Args:
        directory: Where to.
        name: The common name.
        subject_alternative: What clients compare with the address: ``IP:127.0.0.1``, ``DNS:NAME``.
    """
    call(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName={subject_alternative}"),
        cwd=directory,
    )
    return directory / "cert.pem", directory / "key.pem"
