"""History files: events whose `outcome` is a provider's own code instead of success, denied or error, and events that
name no tenant or issuer.

Only files that an operator names (`train`, `replay`) are read like this. The HTTP API stays strict: a live sender can
be corrected, a trace of last year cannot.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from trustwatch_client.events import MAX_ID_LENGTH

from ..errors import MalformedEvent
from ..events import OUTCOMES, NativeEvent, decode_event

REFUSAL_CODE_PREFIXES = (
    "accessdenied",
    "authfailure",
    "authorizationerror",
    "authorizationfailed",
    "blocked",
    "expiredtoken",
    "forbidden",
    "insufficientprivileges",
    "insufficientscope",
    "invalidclienttokenid",
    "missingauthenticationtoken",
    "notauthorized",
    "permissiondenied",
    "refused",
    "rejected",
    "signaturedoesnotmatch",
    "unauthenticated",
    "unauthorized",
    "unrecognizedclient",
)
"""Beginnings of codes that mean a refusal, in small letters without separators; compared with the last dotted part."""

_HTTP_REFUSAL = re.compile(r"(http)?(401|403)(?!\d)")
_SEPARATORS = re.compile(r"[\s_-]+")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def outcome_of_code(code: str) -> str:
    """`denied` for a code that means refusal, else `error`; the schema's own words in other capitals stay themselves.

    >>> outcome_of_code("Client.UnauthorizedOperation"), outcome_of_code("ThrottlingException"), outcome_of_code("403")
    ('denied', 'error', 'denied')
    """
    word = _SEPARATORS.sub("", code.lower())
    if word in OUTCOMES:
        return word
    last = word.rpartition(".")[2]
    refused = last.startswith(REFUSAL_CODE_PREFIXES) or _HTTP_REFUSAL.match(word)
    return "denied" if refused else "error"


def decode_history_event(raw: bytes | memoryview) -> tuple[NativeEvent, bool]:
    """Decode one record of a history file; also return whether its outcome was corrected. Raises MalformedEvent."""
    try:
        return decode_event(raw), False
    except MalformedEvent as error:
        if error.path != "$.outcome":
            raise
        corrected = _with_known_outcome(raw)
        if corrected is None:
            raise
    return decode_event(corrected), True


class RecordOwner(NamedTuple):
    """Tenant and issuer of events whose records do not state them."""

    tenant: str | None = None  # of the events; None = no default
    issuer: str | None = None  # of the agents; None = no default

    def fill(self, native: bytes) -> bytes:
        """Fill in what a native event does not state; a record that is not an event stays as it is."""
        if self.tenant is None and self.issuer is None:
            return native
        try:
            event = _members.decode(native)
            agent = _members.decode(event["agent"])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return native
        if self.issuer is not None and _is_unsaid(agent, "issuer"):
            agent["issuer"] = msgspec.Raw(msgspec.json.encode(self.issuer))
            event["agent"] = msgspec.Raw(msgspec.json.encode(agent))
        if self.tenant is not None and _is_unsaid(event, "tenant"):
            event["tenant"] = msgspec.Raw(msgspec.json.encode(self.tenant))
        return msgspec.json.encode(event)


def native_history_record(raw: bytes) -> tuple[bytes, bool]:
    """Return a record of a history file as the HTTP API accepts it, and whether its outcome was corrected.

    Raises MalformedEvent.
    """
    _, corrected = decode_history_event(raw)
    return (_with_known_outcome(raw) or raw) if corrected else raw, corrected


def _with_known_outcome(raw: bytes | memoryview) -> bytes | None:
    """The record with a known outcome; None if the outcome is not a text that could be a code."""
    try:
        members = _members.decode(raw)
        code = msgspec.json.decode(members["outcome"], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return None
    if not code.strip():
        return None
    outcome = outcome_of_code(code)
    members["outcome"] = msgspec.Raw(msgspec.json.encode(outcome))
    if code.lower() != outcome and _is_unsaid(members, "error"):
        members["error"] = msgspec.Raw(msgspec.json.encode(code[:MAX_ID_LENGTH]))
    return msgspec.json.encode(members)


def _is_unsaid(members: dict[str, msgspec.Raw], name: str) -> bool:
    """True if a text is missing, null or empty."""
    return bytes(members.get(name, b"null")) in (b"null", b'""')
