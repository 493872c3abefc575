"""Thumbprints of client certificates, as a proxy in front of us tells them in a header.

What a certificate says of its owner is the owner's word: none of it may change which certificate is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

MAX_CERTIFICATE_BYTES: Final = 32 * 1024

_PAIR: Final = re.compile(rb'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))(;|\Z)', re.DOTALL)
_REPEATED_KEYS: Final = (b"by", b"uri", b"dns")
"""Keys of Envoy's header that stand once for each name of a certificate; all others stand once."""


def certificate_thumbprint(value: bytes) -> str:
    """SHA-256, base64url, of the certificate in a proxy's header; "" = there is none that can be read.

    Read are RFC 9440 (`:BASE64:`), PEM as NGINX escapes it (`$ssl_client_escaped_cert`), and Envoy's
    `x-forwarded-client-cert` with one element (`Hash=…`, `Cert="…"`).
    """
    if len(value) > MAX_CERTIFICATE_BYTES:
        return ""
    try:
        if value.startswith(b":") and value.endswith(b":"):
            return _thumbprint(base64.b64decode(value[1:-1], validate=True))
        if value.startswith(b"-----BEGIN"):
            return _escaped_thumbprint(value)
        return _forwarded_thumbprint(value)
    except (ValueError, binascii.Error):
        return ""


def _forwarded_thumbprint(value: bytes) -> str:
    """Of Envoy's header. Where it has both a digest and the certificate, they are of the same one."""
    pairs = _forwarded_pairs(value)
    digest, certificate = pairs.get(b"hash"), pairs.get(b"cert")
    told = set()
    if digest is not None:
        raw = bytes.fromhex(digest.decode("ascii"))
        told.add(base64url(raw) if len(raw) == hashlib.sha256().digest_size else "")
    if certificate is not None:
        told.add(_escaped_thumbprint(certificate))
    return told.pop() if len(told) == 1 else ""


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


def _escaped_thumbprint(pem: bytes) -> str:
    certificate = x509.load_pem_x509_certificate(unquote_to_bytes(pem))
    return _thumbprint(certificate.public_bytes(Encoding.DER))


def _thumbprint(der: bytes) -> str:
    x509.load_der_x509_certificate(der)  # raises ValueError where it is none
    return base64url(hashlib.sha256(der).digest())


def base64url(raw: bytes) -> str:
    """Text of bytes, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
