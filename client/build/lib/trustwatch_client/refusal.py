"""Refusals as callers see them: they disclose no risk, reasons or levels."""

from __future__ import annotations

import json
import re
from typing import Literal

import msgspec

GuardAction = Literal["allow", "deny", "step_up", "unavailable"]
ResponseHeaders = list[tuple[bytes, bytes]]
_NOT_QUOTABLE = re.compile(r'[^\x20-\x7e]|["\\]')
RETRY_AFTER_S = 1

REFUSAL_DETAILS: dict[GuardAction, tuple[int, str, str, str]] = {
    "deny": (403, "access_denied", "Forbidden", "Access is denied."),
    "step_up": (401, "insufficient_user_authentication", "Unauthorized", "A person must approve this first."),
    "unavailable": (503, "temporarily_unavailable", "Service Unavailable", "Access can not be decided now. Try again."),
}
"""Action -> status, code, title, detail."""


class Challenge(msgspec.Struct, frozen=True):
    """Requirements of a step-up (RFC 9470).

    Attributes:
        acr_values: authentication context classes, strongest wish first, separated by blanks.
        max_age_s: s since the person authenticated, at most.
        resource_metadata: URL of the protected resource's metadata (RFC 9728).
    """

    acr_values: str | None = None
    max_age_s: int | None = None
    resource_metadata: str | None = None

    def header_value(self) -> str:
        """Value of `WWW-Authenticate`."""
        given = {
            "error": "insufficient_user_authentication",
            "error_description": REFUSAL_DETAILS["step_up"][3],
            "acr_values": self.acr_values,
            "max_age": self.max_age_s,
            "resource_metadata": self.resource_metadata,
        }
        return "Bearer " + ", ".join(
            f'{name}="{_NOT_QUOTABLE.sub("", str(value))}"' for name, value in given.items() if value is not None
        )


def refusal_response(action: GuardAction, challenge: Challenge) -> tuple[int, ResponseHeaders, bytes]:
    """Status, headers and body (a problem document, RFC 9457) of a refused request."""
    status, code, title, detail = REFUSAL_DETAILS[action]
    kind = f"urn:trustwatch:problem:{code}"
    body = json.dumps({"type": kind, "title": title, "status": status, "detail": detail, "code": code}).encode()
    headers: ResponseHeaders = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if action == "step_up":
        headers.append((b"www-authenticate", challenge.header_value().encode("ascii")))
    if action == "unavailable":
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return status, headers, body
