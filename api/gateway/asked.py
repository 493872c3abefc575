"""What gateways send, read from the headers that each product is known to send. Nothing of it decides but the token."""

from __future__ import annotations

import re
from typing import NamedTuple

from starlette.types import Scope

from ..tokens import BadAuthorization, MissingToken

AUTHORIZATION_NAME = b"authorization"
REQUEST_ID_NAME = b"x-request-id"
METHOD_HEADERS = (b"x-forwarded-method", b"x-original-method")
"""Traefik, Caddy, APISIX; NGINX by its configuration."""
URI_HEADERS = (b"x-forwarded-uri", b"x-original-uri", b"x-original-url")
HOST_HEADERS = (b"x-forwarded-host", b"x-original-host")

MAX_TARGET_LENGTH = 512
"""Characters of a path that an audit event holds."""

_METHOD_PATTERN = re.compile(rb"[A-Za-z]{1,32}\Z")
_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_HOST_PATTERN = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}\Z")


class PresentedToken(NamedTuple):
    """A token as it was presented."""

    token: bytes
    is_dpop: bool


def single_header(scope: Scope, *names: bytes) -> bytes | None:
    """The first of the headers *names* that is there; None where it is there twice: one may be the agent's own."""
    for name in names:
        found: list[bytes] = [value for key, value in scope["headers"] if key == name]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def presented_token(scope: Scope) -> PresentedToken:
    """The token of a request.

    Raises:
        MissingToken: there is no Authorization header, or it has a scheme that carries no access token.
        BadAuthorization: there are several, or it is malformed.
    """
    given = None
    for name, value in scope["headers"]:
        if name == AUTHORIZATION_NAME:
            if given is not None:
                raise BadAuthorization("the request has several Authorization headers")
            given = value
    if not given:
        raise MissingToken("the request has no access token")
    scheme, _, token = given.partition(b" ")
    scheme, token = scheme.lower(), token.strip(b" ")
    if scheme not in (b"bearer", b"dpop"):
        raise MissingToken("the request has no access token")
    if not token or b" " in token:
        raise BadAuthorization("the Authorization header holds no access token")
    return PresentedToken(token, scheme == b"dpop")


def forwarded_method(scope: Scope) -> str:
    """The method of the call that a sub-request is about; "" = not told, which no list of safe methods holds."""
    given = single_header(scope, *METHOD_HEADERS) or b""
    return given.decode().upper() if _METHOD_PATTERN.match(given) else ""


def request_id(scope: Scope) -> str:
    """The gateway's own id of the call, where it sends one that is fit to be repeated; "" = none."""
    given = single_header(scope, REQUEST_ID_NAME) or b""
    return given.decode() if _ID_PATTERN.match(given) else ""


def forwarded_target(scope: Scope) -> str:
    """Host and path of the call that a sub-request is about, as the gateway told them."""
    return call_target(single_header(scope, *HOST_HEADERS), single_header(scope, *URI_HEADERS) or b"")


def call_target(host: bytes | None, uri: bytes) -> str:
    """Host and path, printable, without query: that may hold secrets."""
    path = uri.partition(b"?")[0].partition(b"#")[0]
    shown = "".join(sign if " " < sign <= "~" else f"%{ord(sign):02X}" for sign in path.decode("latin-1"))
    name = host.decode() if host is not None and _HOST_PATTERN.match(host) else ""
    return (name + shown)[:MAX_TARGET_LENGTH]
