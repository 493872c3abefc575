"""The service itself: where it listens, its tenants and its pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Name, SettingsPart, check_url, setting
from trustwatch.scoring.policy.book import EnforcementMode


class ListenSettings(SettingsPart, frozen=True):
    """Address of the HTTP API."""

    host: Annotated[str, setting("address to listen on; anything but loopback needs a TLS proxy", min_length=1)] = (
        "127.0.0.1"
    )
    port: Annotated[int, setting("TCP port; 0 takes a free one", ge=0, le=65_535)] = 8420
    public_url: Annotated[str | None, setting("URL by which others reach the service; null is its own address")] = None
    allowed_hosts: Annotated[
        tuple[Name, ...],
        setting("further host names, without port, that `Host` may have in requests without a token"),
    ] = ()

    def __post_init__(self) -> None:
        if self.public_url is not None:
            check_url(self.public_url, "`public_url`", loopback_http=True)

    def url(self) -> str:
        """URL of the service, for links."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class LogSettings(SettingsPart, frozen=True):
    """The log of the service's processes, on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], setting("lowest level that is logged")] = "info"
    format: Annotated[Literal["auto", "text", "json"], setting("`auto` is text on a terminal, else JSON")] = "auto"


TRACES_PATH: Final = "/v1/traces"
"""Path at which OTLP/HTTP takes traces, below the URL of a collector."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class OutgoingSettings(SettingsPart, frozen=True):
    """Connections that the service makes to others."""

    ca_file: Annotated[
        Path | None,
        setting(
            "further certificate authorities (PEM) for all outgoing HTTP; brokers and databases have separate settings"
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.ca_file is None:
            return
        from trustwatch.ingest.outgoing_http import trusted_authorities  # its library takes time to load

        try:
            trusted_authorities(self.ca_file)
        except ConfigError as error:
            raise ValueError(f"`ca_file`: {error}") from None


class TenantSettings(SettingsPart, frozen=True):
    """One tenant; the entry `*` stands for every tenant that has none of its own."""

    domains: Annotated[tuple[Name, ...], setting("domains inside the tenant, with their subdomains")] = ()
    mode: Annotated[EnforcementMode, setting("`shadow` decides and records, `enforce` also acts")] = "shadow"
