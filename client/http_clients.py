"""HTTP clients that requests go through: the caller's own, or one of ours."""

from __future__ import annotations

import httpx2


def http_client(given: httpx2.Client | None) -> httpx2.Client:
    """*given*, or a new one that takes nothing of the environment. Raises TypeError."""
    if given is None:
        return httpx2.Client(trust_env=False)
    if not isinstance(given, httpx2.Client):  # another library's errors would be taken for failures of the token
        raise TypeError(f"http is {_kind(given)}; it must be an httpx2.Client")
    return given


def async_http_client(given: httpx2.AsyncClient | None) -> httpx2.AsyncClient:
    """As `http_client`, for asyncio."""
    if given is None:
        return httpx2.AsyncClient(trust_env=False)
    if not isinstance(given, httpx2.AsyncClient):
        raise TypeError(f"http is {_kind(given)}; it must be an httpx2.AsyncClient")
    return given


def _kind(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}".replace("httpx._client.", "httpx.")
