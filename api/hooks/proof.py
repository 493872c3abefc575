"""How a product proves itself: a secret in a header, as bearer token, as basic authentication, or a signed body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple

from ..settings import HookSettings, Secret
from .base import HookRequest

AUTHORIZATION_HEADER = b"authorization"
SIGNATURE_HEADER = b"zitadel-signature"
MAX_SIGNATURES = 8
"""Signatures that one header may hold: two while a key is changed."""


class HookAuthentication(NamedTuple):
    """Whether a request is from the product. Comparisons take as long whether a secret is nearly right or not at all.

    Attributes:
        is_authentic: the check.
        needs_body: whether it is about the body, which has to be read first.
        challenge: `WWW-Authenticate` of a refusal; empty = no scheme of HTTP.
    """

    is_authentic: Callable[[HookRequest], bool]
    needs_body: bool
    challenge: bytes


def hook_authentication(settings: HookSettings, clock: Callable[[], float]) -> HookAuthentication:
    """The proof that a hook wants.

    Args:
        settings: of the hook; it has a secret.
        clock: seconds since 1970.
    """
    secret = settings.secret
    assert secret is not None
    if settings.kind == "zitadel":
        return HookAuthentication(
            lambda request: has_valid_signature(request, secret, clock(), settings.tolerance_s), True, b""
        )
    match settings.proof:
        case "header":
            name = settings.header.lower().encode()
            return HookAuthentication(lambda request: _equals_secret(request.header(name), secret), False, b"")
        case "bearer":
            return HookAuthentication(
                lambda request: _equals_secret(_credentials_of_scheme(request, b"bearer"), secret),
                False,
                b'Bearer realm="trustwatch"',
            )
        case "basic":
            return HookAuthentication(
                lambda request: _equals_secret(_basic_credentials(request), secret), False, b'Basic realm="trustwatch"'
            )


def has_valid_signature(request: HookRequest, secret: Secret, now_s: float, tolerance_s: float) -> bool:
    """Whether `ZITADEL-Signature: t=…,v1=…` is the HMAC-SHA256 of time and raw body, and not too far from *now_s*."""
    parts = [part.strip().partition(b"=") for part in (request.header(SIGNATURE_HEADER) or b"").split(b",")]
    times = [value for name, _, value in parts if name == b"t"]
    given = [value for name, _, value in parts if name == b"v1"]
    if len(times) != 1 or not times[0].isdigit() or len(times[0]) > 12 or not 0 < len(given) <= MAX_SIGNATURES:
        return False
    if abs(now_s - int(times[0])) > tolerance_s:
        return False
    key = secret.reveal().encode()
    wanted = hmac.new(key, times[0] + b"." + request.body, hashlib.sha256).hexdigest().encode()
    return any([hmac.compare_digest(wanted, one.lower()) for one in given])  # a list: all are compared


def _equals_secret(given: bytes | None, secret: Secret) -> bool:
    return hmac.compare_digest(given or b"", secret.reveal().encode())


def _credentials_of_scheme(request: HookRequest, scheme: bytes) -> bytes | None:
    named, _, credentials = (request.header(AUTHORIZATION_HEADER) or b"").partition(b" ")
    return credentials.strip(b" ") if named.lower() == scheme else None


def _basic_credentials(request: HookRequest) -> bytes | None:
    """`user:password` of basic authentication."""
    try:
        return base64.b64decode(_credentials_of_scheme(request, b"basic") or b"", validate=True)
    except binascii.Error:
        return None
