"""Errors of Trustwatch.

Each class states what to do about it, and carries a stable machine-readable `code`::

    TrustwatchError                 internal_error      base of all; never raised itself
    ├── MalformedEvent              malformed_event     never retry: the record goes to the dead letter
    ├── SourceNotAllowed            source_not_allowed  never retry: the source may not act for that tenant
    ├── ConfigError                 invalid_config      fix the settings, then start again
    ├── ModelError                  invalid_model       the saved model is refused; nothing is loaded
    ├── CorruptLog                  corrupt_log         stop: an acknowledged record cannot be read back
    ├── Fenced                      fenced              stop: another worker owns the partition
    └── Unavailable                 unavailable         try again later; nothing was committed

Layers above add their own classes below these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar


class TrustwatchError(Exception):
    """Base of all errors that Trustwatch raises on purpose."""

    code = "internal_error"


MAX_REASON_LENGTH = 500
"""Characters of a reason: it may quote what was sent, and is kept next to it."""


class MalformedEvent(TrustwatchError):
    """A record is not an audit event, and never will be."""

    code = "malformed_event"

    def __init__(self, reason: str, path: str = "$") -> None:
        reason = reason if len(reason) <= MAX_REASON_LENGTH else f"{reason[:MAX_REASON_LENGTH]}…"
        super().__init__(f"{reason} - at `{path}`")
        self.reason = reason
        self.path = path


class SourceNotAllowed(TrustwatchError):
    """An authenticated source sent an event for a tenant, issuer or event source it is not bound to."""

    code = "source_not_allowed"

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(f"{reason} - at `{path}`")
        self.reason = reason
        self.path = path


class ConfigError(TrustwatchError):
    """A setting is missing or wrong; the message names the member and what it may be."""

    code = "invalid_config"


class ModelError(TrustwatchError):
    """A saved model does not fit this program (digest, format, feature table) and is refused."""

    code = "invalid_model"


class CorruptLog(TrustwatchError):
    """A record in the middle of the event log fails its checksum."""

    code = "corrupt_log"


class Fenced(TrustwatchError):
    """A commit came from a worker that no longer owns the partition; its memory must be dropped."""

    code = "fenced"


class Unavailable(TrustwatchError):
    """A dependency does not answer now; nothing was committed, the same call may succeed later."""

    code = "unavailable"


Answer = TypeVar("Answer")


def retry_until_available(call: Callable[[], Answer], on_unavailable: Callable[[Unavailable], None]) -> Answer:
    """Return the result of *call*, which is repeated while a service does not answer."""
    while True:
        try:
            return call()
        except Unavailable as error:
            on_unavailable(error)


def give_up(error: Unavailable) -> None:
    """Raise the error: the `on_unavailable` of code that leaves the failure to its callers."""
    raise error
