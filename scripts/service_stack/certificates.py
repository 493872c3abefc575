"""A separate certificate authority for one broker on loopback, made with the openssl program."""

from __future__ import annotations

from pathlib import Path

from .system import ServiceError, ensure_command, last_lines, run, write_private

DAYS = "30"


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """Make a CA and a server certificate for `localhost` and 127.0.0.1; files that exist are kept.

    Returns:
        (file with the server's private key and certificate chain for Kafka's PEM key store, certificate of the CA).

    Raises:
        Unavailable: there is no openssl.
        ServiceError: openssl failed.
    """
    store, ca = folder / "server.pem", folder / "ca.pem"
    if store.exists():
        return store, ca
    folder.mkdir(parents=True, exist_ok=True)
    key, request, certificate = folder / "server.key", folder / "server.csr", folder / "server.crt"
    extensions = folder / "server.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    new_key = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
    ca_key = folder / "ca.key"
    _openssl(
        "req",
        "-x509",
        *new_key,
        ca_key,
        "-out",
        ca,
        "-days",
        DAYS,
        "-subj",
        "/CN=trustwatch test CA",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    _openssl("req", *new_key, key, "-out", request, "-subj", "/CN=localhost")
    _openssl(
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        ca,
        "-CAkey",
        ca_key,
        "-CAcreateserial",
        "-days",
        DAYS,
        "-extfile",
        extensions,
        "-out",
        certificate,
    )
    write_private(store.with_suffix(".new"), key.read_text() + certificate.read_text() + ca.read_text())
    store.with_suffix(".new").replace(store)
    return store, ca


def _openssl(*arguments: str | Path) -> None:
    done = run([ensure_command("openssl", "openssl"), *arguments], umask=0o077)  # it writes keys, for this user only
    if done.returncode != 0:
        raise ServiceError(f"openssl {arguments[0]} failed:\n{last_lines(done.stdout)}")
