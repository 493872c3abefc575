"""Names by which requests without a valid token may call the service.

A page of another site can have its own name lead to this machine (DNS rebinding) and then read, in the browser of
somebody who works here, what is open to local requests. Its requests still name that site, and it has no valid token,
though it can send any header.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.types import Scope

from trustwatch.ingest.settings import is_loopback

from ..settings.service_settings import ListenSettings
from .problems import ProblemDetails, ProblemError

HOST_HEADER = b"host"
UNCHECKED_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that tell nothing: probes call them by whatever address a machine has."""


class AllowedHosts:
    """Check of the `Host` of requests without a valid token."""

    def __init__(self, listen: ListenSettings) -> None:
        public = urlsplit(listen.public_url).hostname if listen.public_url is not None else None
        names = {"localhost", listen.host, public or "", *listen.allowed_hosts}
        self._names = frozenset(_canonical(name) for name in names) - {""}
        self._any_address = _is_wildcard(listen.host)

    def check(self, scope: Scope) -> None:
        """Raise ProblemError unless the request names this service: 400 without exactly one Host, 421 for another."""
        given = [value for name, value in scope["headers"] if name == HOST_HEADER]
        if len(given) != 1:
            detail = "a request without a valid token must have exactly one Host header"
            raise ProblemError(ProblemDetails(400, "invalid_host", "Invalid Host", detail))
        host = host_name(given[0].decode("latin-1"))
        if not self._covers(host):
            detail = (
                "a request without a valid token must name this service: the address it listens on, localhost, the "
                "host of `listen.public_url`, or one of `listen.allowed_hosts`"
            )
            raise ProblemError(ProblemDetails(421, "misdirected_request", "Misdirected request", detail))

    def _covers(self, host: str) -> bool:
        if host in self._names or is_loopback(host):
            return True
        # A name can be made to lead here, an address can not: its page comes from this machine.
        return self._any_address and _is_address(host)


def host_name(host: str) -> str:
    """The name in a Host header, without port and in lower case; "" where it is none.

    >>> host_name("Trust.example.:8420"), host_name("[::1]:8420"), host_name("127.0.0.1")
    ('trust.example', '::1', '127.0.0.1')
    """
    try:
        return _canonical(urlsplit(f"//{host}").hostname or "") if set(host).isdisjoint("/?#@\\ ") else ""
    except ValueError:
        return ""


def _canonical(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
