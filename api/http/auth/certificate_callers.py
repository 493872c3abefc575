"""Callers that a client certificate stands for: programs whose connection a trusted proxy has verified.

By a fingerprint the settings name the certificate itself. By a name they trust whom the proxy trusts to issue
certificates, so names are read from the certificate alone: Envoy's header does not quote those that it repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509

from ...settings.access_settings import CallerCertificateSettings, CallerSettings, VerificationSettings
from .callers import AuthenticatedCaller, SourceBinding, binding_of_caller, token_issuer
from .client_certificates import ForwardedCertificates, ShownCertificate, certificate_names
from .token_verification import LEEWAY_S, InvalidToken, MissingToken, base64url

BROWSER_HEADERS: Final = (b"origin", b"sec-fetch-site")
"""Sent by browsers, which show a certificate for whatever page asks them to."""


class InvalidCertificate(InvalidToken):
    """A client certificate came in place of a token, and is refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, lasting=False)


class _Entry(NamedTuple):
    """A caller of the settings and its certificates."""

    caller: CallerSettings
    certificate: CallerCertificateSettings
    issuer: str
    binding: SourceBinding


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
        self._by_thumbprint: dict[str, _Entry] = {}
        self._by_name: dict[str, _Entry] = {}
        for caller in callers:
            if caller.certificate is not None:
                self._add(caller, caller.certificate, token_issuer(caller, issuers) or "")

    def _add(self, caller: CallerSettings, certificate: CallerCertificateSettings, issuer: str) -> None:
        entry = _Entry(caller, certificate, issuer, binding_of_caller(caller, issuer or None))
        for digest in certificate.digests():
            self._by_thumbprint[base64url(digest)] = entry
        self._by_name |= dict.fromkeys(certificate.names, entry)

    def __len__(self) -> int:
        return len(self._by_thumbprint) + len(self._by_name)

    def caller_of(self, scope: Mapping[str, Any]) -> AuthenticatedCaller:
        """The caller of a request (its ASGI scope) that has no token.

        Raises:
            MissingToken: it shows no certificate that counts, either.
            InvalidCertificate: its certificate is of no caller, or out of its time, or a browser shows it.
        """
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        shown = self._forwarded.shown(headers, (scope.get("client") or ("",))[0])
        if not shown.thumbprint:
            raise MissingToken("the request has no bearer token, and no client certificate that a trusted proxy tells")
        if any(name in BROWSER_HEADERS for name, _ in headers):
            raise InvalidCertificate("a client certificate is taken from programs, not from browsers: bring a token")
        until = math.inf if shown.certificate is None else self._end(shown.certificate)
        names = frozenset[str]() if shown.certificate is None else certificate_names(shown.certificate)
        return _caller(self._entry(shown, names), until, names)

    def _end(self, certificate: x509.Certificate) -> float:
        """Seconds since 1970 at which the certificate ends. Raises InvalidCertificate unless it counts now."""
        try:
            start = certificate.not_valid_before_utc.timestamp() - LEEWAY_S
            end = certificate.not_valid_after_utc.timestamp() + LEEWAY_S
        except (ValueError, OverflowError):
            raise InvalidCertificate("the times of the client certificate can not be read") from None
        if not start <= self._clock() < end:
            raise InvalidCertificate("the client certificate is out of the time for which it is valid")
        return end

    def _entry(self, shown: ShownCertificate, names: frozenset[str]) -> _Entry:
        """Entry of the settings for a certificate: by itself, else by the names that it has."""
        by_itself = self._by_thumbprint.get(shown.thumbprint)
        if by_itself is not None:
            return by_itself
        named = {id(entry): entry for name in names if (entry := self._by_name.get(name)) is not None}
        if len(named) > 1:
            raise InvalidCertificate("the client certificate has the names of several callers of the settings")
        if not named:
            raise InvalidCertificate("the client certificate is of no caller of the settings")
        return named.popitem()[1]


def _caller(entry: _Entry, until: float, names: frozenset[str]) -> AuthenticatedCaller:
    """As by a token of the same client, where the settings know one; its names may be those of agents."""
    client = entry.caller.client_id or ""
    return AuthenticatedCaller(
        issuer=entry.issuer,
        subject=entry.caller.subject or client or entry.caller.name,
        client_id=client,
        scopes=frozenset(entry.certificate.scopes),
        exp=until,
        binding=entry.binding,
        other_names=names,
    )
