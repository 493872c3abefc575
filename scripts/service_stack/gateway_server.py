"""What Envoy, Caddy and NGINX have in common here: they ask a check before they hand a request to an upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from .server import Server, listens
from .system import ServiceError


class Gateway(Server):
    """A gateway in front of one upstream, on `url`."""

    PORTS: ClassVar[tuple[str, ...]] = ("http", "admin")

    @property
    def access_log(self) -> Path:
        """JSON lines, one per request, each written at once."""
        return self.folder / "access.jsonl"

    @property
    def configured(self) -> bool:
        """Whether its upstream and its check are configured."""
        return bool(self._state["settings"])

    def configure(self, upstream: str, check: str, *, identity: dict[str, str] | None = None) -> None:
        """Set what the next `start` starts.

        Args:
            upstream: `http://host:port` that requests go to when the check allows them.
            check: URL of the check; Envoy appends the path of the request, the others send it in `X-Forwarded-Uri`.
            identity: Envoy alone: key sets (URL) of the issuers whose tokens it verifies itself, for its access log.
        """
        for name, url in (("upstream", upstream), ("check", check)):
            if _parts(url).scheme != "http" or _parts(url).port is None:
                raise ServiceError(f"{self.NAME}: the {name} is http://host:port, not {url}")
        self._configure({"upstream": upstream, "check": check, "identity": identity or {}})

    def _given(self) -> dict[str, Any]:
        if not self.configured:
            raise ServiceError(f"{self.NAME}: it knows no upstream and no check yet; give both at the first start")
        return self.settings

    def _ready(self) -> bool:
        return listens(self.port)  # a request would be asked about, and logged


def _parts(url: str) -> SplitResult:
    return urlsplit(url)


def authority(url: str) -> str:
    """`host:port` of a URL."""
    return _parts(url).netloc


def host_and_port(url: str) -> tuple[str, int]:
    """Both of a URL that has both."""
    parts = _parts(url)
    assert parts.hostname is not None and parts.port is not None, url
    return parts.hostname, parts.port


def path_of(url: str) -> str:
    """Path of a URL, no slash at its end."""
    return _parts(url).path.rstrip("/")
