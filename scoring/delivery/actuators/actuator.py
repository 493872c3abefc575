"""Interface of actuators: calls that change an agent's client at its authorization server, and their errors."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httpx2

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.printable_text import printable_line

from .desired_state import DesiredState


class ActuatorError(TrustwatchError):
    """Failure of an actuator. Texts are at most a line, and are shown to operators."""

    code = "actuator"

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class UnknownClient(ActuatorError):
    """The server has no such client: trying again changes nothing."""

    code = "unknown_client"


class ActuatorAccessDenied(ActuatorError):
    """The server does not take our credentials, or they lack a right. Retried, since an operator may fix it."""

    code = "refused"


class ActuatorUnavailable(ActuatorError):
    """No usable answer. Tried again."""

    code = "not_reached"


class ActuationNotConfirmed(ActuatorError):
    """The server took the call, and reading back does not show it. Tried again."""

    code = "not_confirmed"


class ActuationResult(NamedTuple):
    """Result of `lower` or `restore`.

    Attributes:
        original: what has to be restored from now on; a revocation may add to it what must not come back.
        confirmed: the server confirmed it when queried afterwards. False only if it cannot be queried.
    """

    original: bytes
    confirmed: bool


class Actuator(Protocol):
    """Changes one client at one server. One contract suite holds for every implementation.

    Every call may be repeated, after success too: the same call changes nothing further. Every call may be cancelled.
    Raises UnknownClient, ActuatorAccessDenied, ActuatorUnavailable, ActuationNotConfirmed.
    """

    async def capture(self, client_id: str) -> bytes:
        """Read from the server all that may be lowered: never empty, no secrets, and opaque to the caller."""

    async def lower(self, client_id: str, original: bytes, desired: DesiredState) -> ActuationResult:
        """Bring about *desired* (which does not restore), starting from *original*, and read it back."""

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Make the client exactly *original* again, and read it back."""


# Detail of a server's answer that operators may see: an error code, since bodies hold secrets.


MAX_DETAIL_CHARS = 160
_ERROR_MEMBERS = ("error", "error_description", "errorMessage")


def error_detail(answer: httpx2.Response) -> str:
    """`: ` and the error that the answer names, on one line; "" if it names none. Never anything else of the body:
    representations of clients hold secrets."""
    try:
        body = answer.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    texts = [body[name] for name in _ERROR_MEMBERS if isinstance(body.get(name), str) and body[name]]
    line = printable_line(": ".join(texts), MAX_DETAIL_CHARS)
    return f": {line}" if line else ""
