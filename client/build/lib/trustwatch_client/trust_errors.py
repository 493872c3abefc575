"""Errors between a client and the service."""

from __future__ import annotations

from typing import Literal

FailureCause = Literal[
    "timeout",
    "network",
    "throttled",
    "server_error",
    "refused",
    "malformed",
    "token",
    "busy",
    "paused",
    "stale",
]
"""Cause of a missing answer.

timeout: not within the time budget; network: no connection, or it broke; throttled: 429; server_error: 5xx; refused:
another 4xx, or the agent's id is ambiguous; malformed: no answer that can be read; token: none to be
had; busy: too many questions on their way; paused: it failed a moment ago and is not asked yet; stale: out of date, and
not accepted.
"""


class TrustError(Exception):
    """Base of the client's errors."""


class TrustUnavailable(TrustError):
    """There is no answer, and the fail mode is closed.

    Attributes:
        cause: of the failure.
        agents: ids of the agents without an answer.
    """

    def __init__(self, cause: FailureCause, detail: str, agents: tuple[str, ...]) -> None:
        whose = f" for {', '.join(agents[:3])}" if agents else ""
        super().__init__(f"no risk answer{whose}: {cause}: {detail}")
        self.cause: FailureCause = cause
        self.agents = agents


class TokenFailed(TrustError):
    """No access token could be fetched. The text never holds a secret."""


class OriginKeyUnavailable(TrustError):
    """The service gave no key for the origins of arguments; events go on without them. The text holds no secret."""


class ContentRefused(TrustError, ValueError):
    """An event holds what no audit event may hold: a token, a credential, a body. Its text names where, never what."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"event refused: {path} {reason}; audit events hold no tokens, credentials or bodies")
        self.path = path
