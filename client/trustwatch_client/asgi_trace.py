"""Values of one HTTP request and of its answer, for origins of arguments. The app gets every message as it came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from itertools import chain
from typing import Any
from urllib.parse import parse_qs

import msgspec

from .call_trace import CallTrace
from .events import AuditEvent

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_BODY_BYTES = 131_072
"""Longer bodies are not read ahead of the app as a whole; what is read is looked at as a text."""
MAX_ANSWER_BYTES = 262_144
_NEVER_THE_SAME = object()
"""Arguments that have another hash each time."""
_READING_HEADERS = (b"content-type", b"content-encoding")
"""Headers by which an app reads a body: the same bytes are 5 as JSON and 9,999 as a form."""
_FORM = "application/x-www-form-urlencoded"


class RequestTrace:
    """Reads a request before the app does, and its answer before the agent does.

    Args:
        scope, receive: of the request.
        trace: of the call; where it is off nothing is read.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, trace: CallTrace) -> None:
        self._scope = scope
        self._receive = receive
        self._trace = trace
        self._kept: list[Message] = []
        self._body = b""
        self._is_whole = True
        self._answer = b""
        self._answer_type = ""

    async def start(self, action: str) -> None:
        """Look up the values of the query and the body."""
        if self._trace.is_on and self._scope["type"] == "http":
            self._body = await self._read_body()
            self._trace.start(None, action, self._values())

    def hash_arguments(self) -> str | None:
        """Hash of method, path, query, body and its type, for a question; of a body that was not read whole it is
        another each time."""
        if not self._is_whole:
            return self._trace.hash_arguments(_NEVER_THE_SAME)
        scope = self._scope
        path, raw_path, query = scope.get("path"), scope.get("raw_path") or b"", scope.get("query_string", b"")
        reading = [pair for pair in scope.get("headers", ()) if pair[0] in _READING_HEADERS]
        texts = [value.decode("latin-1") for value in (raw_path, query, self._body, *chain.from_iterable(reading))]
        return self._trace.hash_arguments([scope.get("method"), path, *texts])

    def add_to_event(self, event: AuditEvent) -> None:
        """Write what is known of the call into its event."""
        self._trace.add_to_event(event)

    async def receive(self) -> Message:
        """The next message for the app: those that were read ahead come first."""
        return self._kept.pop(0) if self._kept else await self._receive()

    async def read_answer(self, message: Message, untrusted: bool | None) -> None:
        """Remember an answer when its last part is there."""
        if not self._trace.is_on:
            return
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._answer_type = "" if b"content-encoding" in headers else _media_type(headers.get(b"content-type", b""))
        elif message["type"] == "http.response.body":
            if _is_readable(self._answer_type):
                self._answer += message.get("body", b"")[: MAX_ANSWER_BYTES - len(self._answer)]
            if not message.get("more_body", False):
                await self._trace.finish(_values_of(self._answer, self._answer_type), untrusted)

    def _values(self) -> dict[str, object]:
        """Values of query and body. The agent chooses the type of its body, so that none is passed over."""
        headers = dict(self._scope.get("headers", ()))
        values = _form_values(self._scope.get("query_string", b"").decode("latin-1"))
        body = _values_of(self._body, _media_type(headers.get(b"content-type", b"")))
        for name, value in (body if isinstance(body, dict) else {"body": body}).items():
            values[name] = [values[name], value] if name in values else value
        return values

    async def _read_body(self) -> bytes:
        body, more = b"", True
        while more and len(body) <= MAX_BODY_BYTES:
            message = await self._receive()
            self._kept.append(message)
            body += message.get("body", b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        self._is_whole = not more
        return body


def _media_type(value: bytes) -> str:
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _is_readable(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type == _FORM or _is_json(media_type)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _form_values(text: str) -> dict[str, object]:
    """Values by name, a list where a name comes more than once: nobody knows which of them an app takes."""
    return {name: values if len(values) > 1 else values[0] for name, values in parse_qs(text).items()}


def _values_of(body: bytes, media_type: str) -> object:
    """Values of a body; its text where it has no other shape, or was cut. An app may read JSON under any type."""
    if media_type == _FORM:
        return _form_values(body.decode(errors="replace"))
    if _is_json(media_type) or body.lstrip()[:1] in {b"{", b"["}:
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return body.decode(errors="replace")
