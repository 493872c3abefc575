"""The seam of actuators: what one can do to an agent's client at its authorization server, and how it can fail."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httpx

from ....ingest.errors import TrustwatchError
from ....ingest.printable_text import printable_line
from .desired_state import DesiredState


class ActuatorError(TrustwatchError):
    """What an actuator could not do. Texts are at most a line, and are shown to operators."""

    code = "actuator"

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class UnknownClient(ActuatorError):
    """The server has no such client: trying again changes nothing."""

    code = "unknown_client"


class ActuatorAccessDenied(ActuatorError):
    """The server does not take our credentials, or they lack a right. Tried again: an operator may mend it."""

    code = "refused"


class ActuatorUnavailable(ActuatorError):
    """No usable answer. Tried again."""

    code = "not_reached"


class ActuationNotConfirmed(ActuatorError):
    """The server took the call, and reading back does not show it. Tried again."""

    code = "not_confirmed"


class ActuationResult(NamedTuple):
    """What came of `lower` or `restore`.

    Attributes:
        original: what has to be restored from now on; a revocation may add to it what must not come back.
        confirmed: the server said, asked afterwards, that it is so. False only where it can not be asked.
    """

    original: bytes
    confirmed: bool


class Actuator(Protocol):
    """Changes one client at one server. One contract suite holds for every implementation.

    Every call may be repeated, after success too: the same call changes nothing further. Every call may be cancelled.
    Raises UnknownClient, Refused, ActuatorUnavailable, ActuationNotConfirmed.
    """

    async def capture(self, client_id: str) -> bytes:
        """What the server has of all that may be lowered; never empty, no secrets. Opaque to its keeper."""

    async def lower(self, client_id: str, original: bytes, wish: DesiredState) -> ActuationResult:
        """Bring about *wish* (which does not restore), measured against *original*, and read back."""

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Make it exactly *original* again, and read back."""


# What of an answer of a server may be shown to operators.


MAX_DETAIL_CHARS = 160
_ERROR_MEMBERS = ("error", "error_description", "errorMessage")


def error_detail(answer: httpx.Response) -> str:
    """`: ` and the error that the answer names, on one line; "" where it names none. Never anything else of the body:
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
