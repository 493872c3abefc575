"""Why a whole request is not taken. Single records are judged by MalformedEvent and SourceNotAllowed.

::

    TrustwatchError
    ├── BodyTooLarge       body_too_large     send less at once
    ├── UnsupportedBody    unsupported_body   another media type or coding
    └── Unavailable
        └── Overloaded     too_many_requests  the same again after `retry_after_s`; nothing of it was kept
"""

from __future__ import annotations

from ...ingest.errors import TrustwatchError, Unavailable


class BodyTooLarge(TrustwatchError):
    """More bytes or more events than one request may hold."""

    code = "body_too_large"


class UnsupportedBody(TrustwatchError):
    """No media type, character set or content coding that the door reads; the message names those it does."""

    code = "unsupported_body"


class Overloaded(Unavailable):
    """The sender, or all senders together, are faster than their events are taken.

    Args:
        cause: `rate`, `share`, `memory`, `lag` or `disk`: a label for metrics.
        reason: what is too much, in words.
        retry_after_s: when another attempt makes sense.
    """

    code = "too_many_requests"

    def __init__(self, cause: str, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.cause = cause
        self.retry_after_s = retry_after_s
