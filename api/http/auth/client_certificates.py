"""Client certificates in the header of a trusted proxy, and the callers that they identify.

The owner writes a certificate's names, so none of them may change which certificate is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ...settings.access_settings import CallerSettings, ProofSettings, VerificationSettings
from .callers import AuthenticatedCaller, binding_of_caller, token_issuer
from .token_verification import LEEWAY_S, InvalidToken, MissingToken, base64url

MAX_CERTIFICATE_BYTES: Final = 32 * 1024
_UNREADABLE: Final = (
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_PAIR: Final = re.compile(rb'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))(;|\Z)', re.DOTALL)
_REPEATED_KEYS: Final = (b"by", b"uri", b"dns")
"""Keys of Envoy's header that may repeat, once for each name of a certificate."""


class ShownCertificate(NamedTuple):
    """A client's certificate."""

    thumbprint: str = ""  # SHA-256, base64url; "" if there is no readable certificate
    certificate: x509.Certificate | None = None  # None if the proxy forwards only its digest


NO_CERTIFICATE: Final = ShownCertificate()


class ForwardedCertificates:
    """Reads the configured header, only from configured proxies."""

    def __init__(self, settings: ProofSettings) -> None:
        self._header = (settings.certificate_header or "").lower().encode()
        self._proxies = [ipaddress.ip_network(network) for network in settings.proxies]

    def shown(self, headers: list[tuple[bytes, bytes]], peer: str) -> ShownCertificate:
        """Return the client's certificate as the proxy forwards it, if that can be trusted."""
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
    """Return the certificate in a proxy's header, if it is present and readable.

    Read are RFC 9440 (`:BASE64:`), PEM as NGINX escapes it (`$ssl_client_escaped_cert`), and Envoy's
    `x-forwarded-client-cert` with one element (`Hash=…`, `Cert="…"`). If that has both members, they must match.
    """
    if len(value) > MAX_CERTIFICATE_BYTES:
        return NO_CERTIFICATE
    try:
        if value.startswith(b":") and value.endswith(b":"):
            return _shown(x509.load_der_x509_certificate(base64.b64decode(value[1:-1], validate=True)))
        if value.startswith(b"-----BEGIN"):
            return _shown_pem(value)
        pairs = _forwarded_pairs(value)
        digest, certificate = pairs.get(b"hash"), pairs.get(b"cert")
        shown = NO_CERTIFICATE if certificate is None else _shown_pem(certificate)
        if digest is None:
            return shown
        raw = bytes.fromhex(digest.decode("ascii"))
        thumbprint = base64url(raw) if len(raw) == hashlib.sha256().digest_size else ""
        if certificate is None:
            return ShownCertificate(thumbprint)
        return shown if thumbprint == shown.thumbprint else NO_CERTIFICATE
    except (ValueError, binascii.Error, x509.InvalidVersion):
        return NO_CERTIFICATE


def certificate_names(certificate: x509.Certificate) -> frozenset[str]:
    """Return the URIs and DNS names that a certificate is issued to: those of its SAN, never its subject."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.get_values_for_type(x509.DNSName)
    except (ValueError, *_UNREADABLE):
        return frozenset()
    return frozenset((*(uri for uri in uris if ":" in uri), *(host.lower() for host in hosts if ":" not in host)))


def _forwarded_pairs(value: bytes) -> dict[bytes, bytes]:
    """Return the values of the one element of Envoy's header, by key in lower case.

    Envoy quotes some values but not the alternative names. A comma outside of quotes, or a repeated key, is another
    proxy's element or a name that looks like one: they cannot be distinguished. Raises ValueError.
    """
    pairs: dict[bytes, bytes] = {}
    at, ended = 0, b";"
    while ended:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise ValueError("no key and value, or several elements")
        key, quoted, plain, ended = pair[1].lower(), pair[2], pair[3], pair[4]
        if key in pairs and key not in _REPEATED_KEYS:
            raise ValueError("a key occurs twice")
        pairs[key] = plain if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        at = pair.end()
    return pairs


def _shown_pem(escaped: bytes) -> ShownCertificate:
    return _shown(x509.load_pem_x509_certificate(unquote_to_bytes(escaped)))


def _shown(certificate: x509.Certificate) -> ShownCertificate:
    der = certificate.public_bytes(Encoding.DER)
    return ShownCertificate(base64url(hashlib.sha256(der).digest()), certificate)


BROWSER_HEADERS: Final = (b"origin", b"sec-fetch-site")
"""Sent by browsers, which present a certificate to any page."""


class InvalidCertificate(InvalidToken):
    """A client certificate was presented instead of a token, and is refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, lasting=False)


class CertificateCallers:
    """Finds the caller of a request without a token."""

    def __init__(
        self,
        callers: Iterable[CallerSettings],
        issuers: Sequence[str],
        verification: VerificationSettings,
        clock: Callable[[], float],
    ) -> None:
        self._forwarded = ForwardedCertificates(verification.proofs)
        self._clock = clock
        self._by_thumbprint: dict[str, AuthenticatedCaller] = {}
        self._by_name: dict[str, AuthenticatedCaller] = {}
        for settings in callers:
            if settings.certificate is None:
                continue
            issuer, client = token_issuer(settings, issuers), settings.client_id or ""
            caller = AuthenticatedCaller(  # the same as for a token of the client, if the settings name one
                issuer or "",
                settings.subject or client or settings.name,
                client,
                frozenset(settings.certificate.scopes),
                math.inf,
                binding_of_caller(settings, issuer),
            )
            self._by_thumbprint |= {base64url(digest): caller for digest in settings.certificate.digests()}
            self._by_name |= dict.fromkeys(settings.certificate.names, caller)

    def __len__(self) -> int:
        return len(self._by_thumbprint) + len(self._by_name)

    def caller_of(self, scope: Mapping[str, Any]) -> AuthenticatedCaller:
        """Return the caller of a request (its ASGI scope) without a token. Raises MissingToken, InvalidCertificate."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        shown = self._forwarded.shown(headers, (scope.get("client") or ("",))[0])
        if not shown.thumbprint:
            raise MissingToken("the request has no bearer token, and no client certificate of a trusted proxy")
        if any(name in BROWSER_HEADERS for name, _ in headers):
            raise InvalidCertificate("a client certificate is taken from programs, not from browsers: bring a token")
        until, names = math.inf, frozenset[str]()
        if shown.certificate is not None:
            until, names = self._end(shown.certificate), certificate_names(shown.certificate)
        caller = self._by_thumbprint.get(shown.thumbprint)
        if caller is None:
            named = {id(caller): caller for name in names if (caller := self._by_name.get(name)) is not None}
            if len(named) > 1:
                raise InvalidCertificate("the client certificate has the names of several callers of the settings")
            if not named:
                raise InvalidCertificate("no caller of the settings has this client certificate")
            caller = named.popitem()[1]
        # The names may be those of agents: their holder cannot decide about them.
        return msgspec.structs.replace(caller, exp=until, other_names=names)

    def _end(self, certificate: x509.Certificate) -> float:
        """Return when the certificate ends, in seconds since 1970. Raises InvalidCertificate unless it is valid now."""
        try:
            start = certificate.not_valid_before_utc.timestamp() - LEEWAY_S
            end = certificate.not_valid_after_utc.timestamp() + LEEWAY_S
        except (ValueError, OverflowError):
            raise InvalidCertificate("the times of the client certificate cannot be read") from None
        if not start <= self._clock() < end:
            raise InvalidCertificate("the client certificate is out of the time for which it is valid")
        return end
