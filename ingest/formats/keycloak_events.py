"""Events of Keycloak: of users and clients, and of administrators, in every form in which a server sends them.

Forms: JSON of the Kafka listeners and of webhooks (`Event`, `AdminEvent`), the same from the admin REST API (one or an
array), and lines of the `jboss-logging` listener that every server has: as text, inside Keycloak's own JSON log, or
wrapped by a log shipper. Servers quote the line's values; old ones only those with a space, in single quotes. In lines
the word `null` means that a value is missing.

What an administrator sent (`representation`) is never read: it holds secrets of clients.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import MalformedEvent
from .raw_records import decode_object, parse_timestamp_ms, shipper_text, shipper_time_ms, split_records
from .record_mapping import UnpackedRecord

USER_KIND, ADMIN_KIND = "user", "admin"

KEYCLOAK_EVENT_TYPES = {
    "CLIENT_LOGIN": "token.request",
    "CODE_TO_TOKEN": "token.request",
    "PERMISSION_TOKEN": "token.request",
    "OAUTH2_DEVICE_CODE_TO_TOKEN": "token.request",
    "AUTHREQID_TO_TOKEN": "token.request",
    "OAUTH2_EXTENSION_GRANT": "token.request",
    "REFRESH_TOKEN": "token.refresh",
    "TOKEN_EXCHANGE": "token.exchange",
    "INTROSPECT_TOKEN": "token.introspect",
    "VALIDATE_ACCESS_TOKEN": "token.introspect",
    "REVOKE_GRANT": "token.revoke",
    "CLIENT_REGISTER": "client.register",
    "CLIENT_UPDATE": "client.change",
    "CLIENT_DELETE": "client.change",
}
"""Our type by Keycloak's, without `_ERROR`. What people do (LOGIN, LOGOUT …) is nothing of an agent."""

REFUSED_INTROSPECTION_ERRORS = (
    "access_denied",
    "invalid_client",
    "invalid_client_credentials",
    "invalid_request",
    "not_allowed",
    "unauthorized_client",
)
"""Errors by which a server refuses to introspect. Every other one says that the token is invalid, which
is an answer and not a fault of the client that asks."""

MAX_LINE_CHARACTERS = 64 * 1024
"""Characters of a line."""

KEYCLOAK_LOGGER = "org.keycloak.events"
_PAIR = re.compile(r"""([\w.-]+)=("(?:[^"\\]|\\.)*"|'[^']*'|.*?)(?=, [\w.-]+=|$)""", re.DOTALL)
_START = re.compile(r"(?:^|\s)(?=(?:type|operationType)=)")
_ACTOR = ("clientId", "userId", "ipAddress")
_SHARED = ("realmId", "realmName", "error")
_USER_PLACES = ("type", "sessionId", *_ACTOR, *_SHARED)
_ADMIN_PLACES = ("operationType", "resourceType", "resourcePath", *_SHARED)
_NO_SCOPES = "Invalid scopes: "


def unpack_keycloak_events(value: bytes) -> Iterator[UnpackedRecord]:
    """Events of a JSON object, an array of them, or lines of text."""
    for raw in split_records(value):
        try:
            record = (
                _event_of_json(raw) if raw.lstrip()[:1] == b"{" else _event_of_line(raw.decode(errors="replace"), None)
            )
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield UnpackedRecord(
                raw, record, ADMIN_KIND if record is not None and "operationType" in record else USER_KIND
            )


def _event_of_json(raw: bytes) -> dict[str, Any] | None:
    record = decode_object(raw)
    if isinstance(record.get("operationType"), str):
        return {name: value for name, value in record.items() if name != "representation"}
    if isinstance(record.get("type"), str) and ("realmId" in record or "clientId" in record):
        return _user_event(record)
    text = shipper_text(record)
    if text is None:
        raise MalformedEvent("neither an event of Keycloak (`type` or `operationType`) nor a line of its log")
    logger = record.get("loggerName") or record.get("log.logger")
    return None if logger not in (None, KEYCLOAK_LOGGER) else _event_of_line(text, record)


def _event_of_line(line: str, wrapper: dict[str, Any] | None) -> dict[str, Any] | None:
    """The event in a line of the log; None for every other line."""
    start = _START.search(line)
    prefix = line[: start.start()] if start else ""
    named = wrapper is not None and (wrapper.get("loggerName") or wrapper.get("log.logger"))
    # Other lines may quote what a stranger sent; so only Keycloak's own place in front of an event counts.
    if start is None or (prefix.strip() and f"[{KEYCLOAK_LOGGER}]" not in prefix and not named):
        return None
    if len(line) > MAX_LINE_CHARACTERS:
        raise MalformedEvent(f"line has {len(line)} characters, limit is {MAX_LINE_CHARACTERS}")
    pairs: dict[str, str | None] = {}
    for name, value in _PAIR.findall(line[start.end() :].rstrip()):
        quote = value[:1]
        if len(value) >= 2 and quote in ("'", '"') and value[-1] == quote:
            value = value[1:-1].replace("\\" + quote, quote)  # only the quote itself is escaped
        # Fixed members come first, and later details never replace them.
        pairs.setdefault(name, None if value == "null" else value)
    time = parse_timestamp_ms(prefix)
    if time is None and wrapper is not None:
        time = shipper_time_ms(wrapper)
    if time is None:
        raise MalformedEvent("line names no time; ship it with the time in front, or in a member `timestamp`")
    if "operationType" in pairs:
        actor = {name: pairs.get(name) for name in _ACTOR}
        return {name: pairs.get(name) for name in _ADMIN_PLACES} | {"time": time, "authDetails": actor}
    details = {name: value for name, value in pairs.items() if name not in _USER_PLACES}
    return _user_event({name: pairs.get(name) for name in _USER_PLACES} | {"time": time, "details": details})


def _user_event(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record with members derived from it; None if it is not of an agent, or is of an unknown client.

    Added are `event` (our type), `code` (the error as the server said it), `error` (what of it is the client's),
    `asked` (scopes that were refused), `audience` (in an order that does not change) and `own_account` (the client acts
    for itself).
    """
    kind = str(record["type"])
    verb = kind.removesuffix("_ERROR")
    event, code = KEYCLOAK_EVENT_TYPES.get(verb), record.get("error") or ("unknown_error" if verb != kind else None)
    if event is None or code == "client_not_found":
        return None
    details = record.get("details")
    details = details if isinstance(details, dict) else {}
    reason, audience, account = details.get("reason"), details.get("audience"), details.get("username")
    asked = reason.removeprefix(_NO_SCOPES) if isinstance(reason, str) and reason.startswith(_NO_SCOPES) else None
    own_account = f"service-account-{record.get('clientId')}".lower()
    answered = event == "token.introspect" and code not in REFUSED_INTROSPECTION_ERRORS
    return {
        **record,
        "details": details,
        "event": event,
        "code": code,
        "error": None if answered else "invalid_scope" if asked else code,
        "asked": asked,
        "audience": " ".join(sorted(audience.split())) if isinstance(audience, str) else None,
        "own_account": verb == "CLIENT_LOGIN" or (isinstance(account, str) and account.lower() == own_account),
    }
