"""Calls of a server's admin API, with its failures as errors of actuators."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import httpx

from .auth import RequestAuthenticator
from .base import ActuatorAccessDenied, ActuatorUnavailable, UnknownClient
from .told import error_detail


class AdminApi:
    """One admin API.

    Args:
        http: client without a time limit of its own, that follows no redirects.
        url: of the API, without a slash at the end.
        auth: proves us.
    """

    def __init__(self, http: httpx.AsyncClient, url: str, auth: RequestAuthenticator) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._auth = auth

    async def call(
        self, method: str, path: str, *, expect: Collection[int] = (200, 204), missing: str = "", **request: Any
    ) -> httpx.Response:
        """Send one request; once more with new credentials where they are not taken.

        Args:
            expect: statuses of success.
            missing: what a 404 means, for the error; "" = a 404 is an answer like others.
            request: as of `httpx.AsyncClient.request`.

        Raises:
            UnknownClient: 404 where *missing* says that of a client.
            Refused: our credentials are not taken, or lack a right.
            ActuatorUnavailable: anything else.
        """
        answer = await self._send(method, path, request)
        if answer.status_code == 401:
            self._auth.invalidate()
            answer = await self._send(method, path, request)
        status = answer.status_code
        if status in expect:
            return answer
        where = f"{method} {path.split('?', 1)[0]}: HTTP {status}{error_detail(answer)}"
        if status == 404 and missing:
            raise UnknownClient(missing)
        if status in (401, 403):
            raise ActuatorAccessDenied(f"{where} - the server does not take our credentials, or they lack a right")
        wait = answer.headers.get("retry-after", "")
        raise ActuatorUnavailable(where, float(wait[:9]) if wait.isascii() and wait.isdigit() else None)

    async def _send(self, method: str, path: str, request: dict[str, Any]) -> httpx.Response:
        headers = await self._auth.headers()
        try:
            return await self._http.request(method, self._url + path, headers=headers, **request)
        except httpx.HTTPError as error:
            raise ActuatorUnavailable(f"{method} {path.split('?', 1)[0]}: {type(error).__name__}") from None
