"""HTTP clients of the service: the one place that makes them, so that all trust the same certificate authorities.

Neither proxies, certificates nor `.netrc` of the environment are used, and no redirects are followed: the settings
alone determine who is trusted.
"""

from __future__ import annotations

import re
import ssl
from functools import cache
from pathlib import Path
from typing import Any

import httpx2

from .errors import ConfigError

_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def make_http_client(ca_file: Path | None, **options: Any) -> httpx2.AsyncClient:
    """A client for requests to other services. Raises ConfigError."""
    return httpx2.AsyncClient(verify=trusted_authorities(ca_file), trust_env=False, follow_redirects=False, **options)


def trusted_authorities(ca_file: Path | None) -> ssl.SSLContext:
    """A new context that trusts the system's authorities, and those in *ca_file* as well.

    The file is read once in the life of a process: a client that is made later trusts the same authorities. Raises
    ConfigError.
    """
    context = httpx2.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(cadata=_certificates(ca_file))
        except ssl.SSLError:
            raise ConfigError(f"{ca_file} holds a certificate that cannot be read: write it as PEM") from None
    return context


@cache
def _certificates(ca_file: Path) -> str:
    """The certificates in a PEM file, without what stands between them."""
    try:
        found = _CERTIFICATE.findall(ca_file.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise ConfigError(f"{ca_file} cannot be read: {error.strerror}") from None
    if not found:
        raise ConfigError(f"{ca_file} holds no certificates: write them as PEM")
    return "\n".join(found)


def connection_error_text(error: Exception, *, with_text: bool = False) -> str:
    """Kind of a failed request, and its text if that may be shown; of a certificate that is refused, what to do."""
    kind, text = type(error).__name__, str(error)
    if _UNTRUSTED not in text:
        return f"{kind}: {text}" if with_text else kind
    reason = text.partition("verify failed: ")[2].partition(" (_ssl")[0] or "not trusted"
    advice = "; name a private authority in `outgoing.ca_file`" if "issuer" in reason or "self-signed" in reason else ""
    return f"{kind}: certificate refused ({reason}){advice}"
