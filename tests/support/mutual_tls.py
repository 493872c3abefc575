"""Clients with certificates, and the authority that issues them: what a proxy with mTLS is asked by."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class CertificateAuthority:
    """Writes certificates and their keys into *folder*, as `NAME.pem` and `NAME.key`; its own is `clients.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("authority")
        self._write("clients", _builder("authority", self._key, self._name, ca=True).sign(self._key, hashes.SHA256()))

    def issue(self, name: str, hosts: Sequence[str] = (), begun_days_ago: int = 1, own: bool = False) -> None:
        """A certificate for two days; *own*: it is signed by itself, and not issued by anybody."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (_named(name), key) if own else (self._name, self._key)
        builder = _builder(name, key, issuer, begun_days_ago)
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        self._write(name, builder.sign(signer, hashes.SHA256()), key)

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        if key is not None:
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (self.folder / f"{name}.key").write_bytes(pem)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, begun_days_ago: int = 1, *, ca: bool = False
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(days=begun_days_ago)
    builder = x509.CertificateBuilder().subject_name(_named(name)).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(x509.BasicConstraints(ca, None), True)
    return builder.not_valid_before(start).not_valid_after(start + timedelta(days=2))


class TlsClient:
    """A client that shows one certificate of *authority*, or none, at a port of loopback."""

    def __init__(self, authority: CertificateAuthority, port: int, name: str | None = None) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority.folder / "clients.pem"))
        self._context.check_hostname = False
        if name is not None:
            self._context.load_cert_chain(authority.folder / f"{name}.pem", authority.folder / f"{name}.key")

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self._port), 10)
        return self._context.wrap_socket(raw, server_hostname="localhost")

    def statuses(self, *requests: bytes) -> list[int]:
        """Statuses of all answers on one connection, which the last request is to end; none where it was refused."""
        answers = bytearray()
        try:
            with self.connect() as connection:
                for request in requests[:-1]:
                    connection.sendall(request)
                    _read_answer(connection, answers)
                connection.sendall(requests[-1])
                while chunk := connection.recv(65_536):
                    answers += chunk
        except ConnectionRefusedError:
            raise  # nobody listens, so nothing was refused
        except (ssl.SSLError, ConnectionError):
            pass  # what came before it counts
        return [int(status) for status in _STATUS.findall(answers)]


def request(path: str, *headers: bytes, method: str = "GET", token: str = "", close: bool = True) -> bytes:
    """An HTTP/1.1 request as it goes over the wire; *headers* as they stand."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", *headers]
    lines += [f"Authorization: Bearer {token}".encode()] if token else []
    lines += [b"Connection: close"] if close else []
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _read_answer(connection: ssl.SSLSocket, answers: bytearray) -> None:
    """Add one answer with a `Content-Length` to *answers*. Raises ConnectionError where it ends before that."""
    begin = len(answers)
    while (head := answers.find(b"\r\n\r\n", begin)) < 0:
        _receive(connection, answers)
    (length,) = re.findall(rb"(?i)content-length: (\d+)", answers[begin:head])
    while len(answers) < head + 4 + int(length):
        _receive(connection, answers)


def _receive(connection: ssl.SSLSocket, answers: bytearray) -> None:
    chunk = connection.recv(65_536)
    if not chunk:
        raise ConnectionResetError("the connection ended within an answer")
    answers += chunk
