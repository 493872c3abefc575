"""Client certificates, as a proxy in front of us tells them in a header.

What a certificate says of its owner is the owner's word: none of it may change which certificate is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ...settings.access_settings import ProofSettings
from .token_verification import base64url

MAX_CERTIFICATE_BYTES: Final = 32 * 1024

_PAIR: Final = re.compile(rb'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))(;|\Z)', re.DOTALL)
_REPEATED_KEYS: Final = (b"by", b"uri", b"dns")
"""Keys of Envoy's header that stand once for each name of a certificate; all others stand once."""


class ShownCertificate(NamedTuple):
    """A client's certificate.

    Attributes:
        thumbprint: SHA-256, base64url; "" = there is no certificate that can be read.
        certificate: itself; None = the proxy tells its digest alone.
    """

    thumbprint: str = ""
    certificate: x509.Certificate | None = None


NO_CERTIFICATE: Final = ShownCertificate()


class ForwardedCertificates:
    """Reads the header of the settings, from the proxies of the settings alone."""

    def __init__(self, settings: ProofSettings) -> None:
        self._header = (settings.certificate_header or "").lower().encode()
        self._proxies = [ipaddress.ip_network(network) for network in settings.proxies]

    def shown(self, headers: list[tuple[bytes, bytes]], peer: str) -> ShownCertificate:
        """The client's certificate, as the proxy in front of us tells it; none where that can not be trusted."""
        if not self._header:
            return NO_CERTIFICATE
        values = [value for name, value in headers if name == self._header]
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return NO_CERTIFICATE
        if len(values) != 1 or not any(address in network for network in self._proxies):
            return NO_CERTIFICATE
        return read_certificate(values[0])


def read_certificate(value: bytes) -> ShownCertificate:
    """The certificate in a proxy's header, if there is one that can be read.

    Read are RFC 9440 (`:BASE64:`), PEM as NGINX escapes it (`$ssl_client_escaped_cert`), and Envoy's
    `x-forwarded-client-cert` with one element (`Hash=…`, `Cert="…"`).
    """
    if len(value) > MAX_CERTIFICATE_BYTES:
        return NO_CERTIFICATE
    try:
        if value.startswith(b":") and value.endswith(b":"):
            return _shown(x509.load_der_x509_certificate(base64.b64decode(value[1:-1], validate=True)))
        if value.startswith(b"-----BEGIN"):
            return _shown(_escaped_certificate(value))
        return _forwarded_certificate(value)
    except (ValueError, binascii.Error, x509.InvalidVersion):
        return NO_CERTIFICATE


def certificate_names(certificate: x509.Certificate) -> frozenset[str]:
    """URIs and DNS names that a certificate is issued to: those of its SAN, never its subject."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.get_values_for_type(x509.DNSName)
    except (
        ValueError,
        x509.InvalidVersion,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        return frozenset()
    return frozenset((*(uri for uri in uris if ":" in uri), *(host.lower() for host in hosts if ":" not in host)))


def _forwarded_certificate(value: bytes) -> ShownCertificate:
    """Of Envoy's header. Where it has both a digest and the certificate, they are of the same one."""
    pairs = _forwarded_pairs(value)
    digest, certificate = pairs.get(b"hash"), pairs.get(b"cert")
    by_digest, by_itself = "", NO_CERTIFICATE
    if digest is not None:
        raw = bytes.fromhex(digest.decode("ascii"))
        by_digest = base64url(raw) if len(raw) == hashlib.sha256().digest_size else ""
    if certificate is not None:
        by_itself = _shown(_escaped_certificate(certificate))
    if digest is None or certificate is None:
        return by_itself if digest is None else ShownCertificate(by_digest)
    return by_itself if by_digest == by_itself.thumbprint else NO_CERTIFICATE


def _forwarded_pairs(value: bytes) -> dict[bytes, bytes]:
    """Values of the one element of Envoy's header, by key in small letters.

    Envoy quotes some values and leaves alternative names of certificates as they are. So a comma outside of quotes
    is another proxy's element or a name that looks like one, and nobody can tell which. So is a key that comes again.

    Raises:
        ValueError: there are several elements, a key is there twice, or the header is malformed.
    """
    pairs: dict[bytes, bytes] = {}
    at, ended = 0, b";"
    while ended:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise ValueError("no key and value, or several elements")
        key, quoted, plain, ended = pair[1].lower(), pair[2], pair[3], pair[4]
        if key in pairs and key not in _REPEATED_KEYS:
            raise ValueError("a key is there twice")
        pairs[key] = plain if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        at = pair.end()
    return pairs


def _escaped_certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(unquote_to_bytes(pem))


def _shown(certificate: x509.Certificate) -> ShownCertificate:
    der = certificate.public_bytes(Encoding.DER)
    return ShownCertificate(base64url(hashlib.sha256(der).digest()), certificate)
