"""Actuator that posts the desired state, signed (Standard Webhooks): for products without an actuator of their own.

The body is JSON: `action` (`lower` or `restore`) and the members of `DesiredState`. 2xx says that it is accepted; what
that is worth, only `confirm_url` can tell, which gets the same body and answers `{"confirmed": true}` once it is so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import httpx2
import msgspec

from trustwatch.ingest.outgoing_http import connection_error_text

from ..notifiers.webhook_notifier import sign_headers
from ..notifiers.webhook_target import redact_secrets
from .actuator import (
    ActuationNotConfirmed,
    ActuationResult,
    ActuatorAccessDenied,
    ActuatorUnavailable,
    UnknownClient,
    error_detail,
)
from .actuator_settings import ActuatorSettings
from .desired_state import DesiredState


class WebhookActuator:
    """`Actuator` by webhook.

    Args:
        settings: where to post and how to sign; without a `confirm_url`, 2xx is all there is.
        clock: UTC milliseconds; each attempt is signed for its own time.
    """

    def __init__(self, http: httpx2.AsyncClient, settings: ActuatorSettings, clock: Callable[[], int]) -> None:
        self._http = http
        self._settings = settings
        self._clock = clock

    async def capture(self, client_id: str) -> bytes:
        """The client's name: the receiver keeps what it has to restore."""
        return msgspec.json.encode({"client_id": client_id})

    async def lower(self, client_id: str, original: bytes, desired: DesiredState) -> ActuationResult:
        """Send the desired state."""
        members = msgspec.to_builtins(desired)
        del members["agent_key"]  # ours, and larger than the numbers of some languages
        return ActuationResult(original, await self._send_action("lower", client_id, members))

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Send that everything is to be as it was."""
        return ActuationResult(original, await self._send_action("restore", client_id, {}))

    async def _send_action(
        self, action: Literal["lower", "restore"], client_id: str, members: dict[str, object]
    ) -> bool:
        body = msgspec.json.encode({"action": action, "client_id": client_id} | members, order="sorted")
        await self._post(self._settings.url, action, client_id, body)
        if self._settings.confirm_url is None:
            return False
        answer = await self._post(self._settings.confirm_url, action, client_id, body)
        try:
            confirmed = answer.json()["confirmed"] is True
        except (ValueError, TypeError, KeyError):
            confirmed = False
        if not confirmed:
            raise ActuationNotConfirmed("confirm_url does not say that it is so")
        return True

    async def _post(self, url: str, action: str, client_id: str, body: bytes) -> httpx2.Response:
        headers = sign_headers(_message_id(action, body), body, self._settings.secrets, self._clock())
        headers["content-type"] = "application/json"
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            raise ActuatorUnavailable(connection_error_text(error)) from None
        if answer.is_success:
            return answer
        detail = redact_secrets(error_detail(answer), self._settings.url, self._settings.secrets)
        text = f"HTTP {answer.status_code}{detail}"
        if answer.status_code == 404:
            raise UnknownClient(f"the receiver knows no client {client_id}: {text}")
        raise ActuatorAccessDenied(text) if answer.status_code in (401, 403) else ActuatorUnavailable(text)


def _message_id(action: str, body: bytes) -> str:
    """Id that is the same for the same desired state, so that a receiver recognises a repetition."""
    return f"{action}-{hashlib.sha256(body).hexdigest()[:32]}"
