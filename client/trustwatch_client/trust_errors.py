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
another 4xx, or the agent's id is ambiguous; malformed: an unreadable answer; token: no token
could be fetched; busy: too many agents are queried at one time; paused: a request failed a moment ago; stale: out of
date, and not accepted.
"""


class TrustError(Exception):
    """Base class of the client's errors."""


class TrustUnavailable(TrustError):
    """Raised if there is no answer and the fail mode is closed.

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
    """Raised if no access token could be fetched. The text never contains a secret."""


class OriginKeyUnavailable(TrustError):
    """Raised if the service issued no key for argument origins. Events are sent without them."""


class ContentRefused(TrustError, ValueError):
    """Raised if an event contains a token, a credential or a body. The text names only the place."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"event refused: {path} {reason}; audit events hold no tokens, credentials or bodies")
        self.path = path
