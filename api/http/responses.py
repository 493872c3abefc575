"""Signed answers (the plain answer as a claim of a JWT, on request) and streams of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from fastapi import Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .auth.callers import AuthenticatedCaller
from .auth.signing import SecurityEventKeys
from .dependencies import services_of
from .problems import SignedAnswersMissing
from .schemas import problem_responses

JWT_MEDIA_TYPE: Final = "application/jwt"
AnswerKind = Literal["risk", "risks", "decision", "decisions", "alert"]
"""Kinds of answers: each is the name of the claim that holds one, and the middle of its `typ`."""


@dataclass(eq=False, repr=False)
class AnswerSigner:
    _keys: SecurityEventKeys
    _issuer: str
    _lifetime_s: int
    _now_s: Callable[[], float]
    _new_id: Callable[[], str]

    def sign(self, kind: AnswerKind, audience: str, body: bytes, answer_id: str = "") -> bytes:
        """Sign *body* (JSON) as the claim *kind* of a compact JWS. Raises ConfigError if a key cannot be read."""
        now = int(self._now_s())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": audience,
            "iat": now,
            "exp": now + self._lifetime_s,
            "jti": answer_id or self._new_id(),
            kind: msgspec.json.decode(body),
        }
        return self._keys.sign(claims, f"trustwatch-{kind}+jwt").encode()


def wants_signed(headers: Iterable[tuple[bytes, bytes]], *, can_sign: bool) -> bool:
    """Return whether a request accepts a signed JWT and does not prefer JSON.

    Raises SignedAnswersMissing.
    """
    accepted = []
    for name, value in headers:  # no comprehension: an answer about risk has few calls
        if name == b"accept" and b"application/jwt" in value.lower():
            accepted.append(value)
    if not accepted:
        return False
    qualities = _qualities(b",".join(accepted))
    json = max(qualities.get(kind, 0.0) for kind in ("application/json", "application/*", "*/*"))
    signed = qualities.get(JWT_MEDIA_TYPE, 0.0)
    if can_sign:
        return 0.0 < signed >= json
    if signed > 0.0 and json == 0.0:
        raise SignedAnswersMissing("answers are signed where `shared_signals.enabled` is true; accept application/json")
    return False


def _qualities(accept: bytes) -> dict[str, float]:
    """Return the quality of each media range of an Accept header (RFC 9110, 12.5.1); 0 if it cannot be read."""
    qualities: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((value for piece in parameters if (value := piece.removeprefix("q=")) != piece), "1")
        qualities[kind] = float(quality) if quality.replace(".", "", 1).isdigit() and quality.isascii() else 0.0
    return qualities


SIGNED_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {JWT_MEDIA_TYPE: {"schema": {"type": "string"}}}},
    **problem_responses({406: "The client accepts only signed answers, and the service does not sign."}),
}
"""Additional answers of a route that signs on request."""


def signed_response(
    request: Request, caller: AuthenticatedCaller, kind: AnswerKind, answer: bytes | BaseModel
) -> Response | None:
    """Return *answer* (JSON) signed for the caller, or None if the client does not ask for it. Raises
    SignedAnswersMissing."""
    signer = services_of(request).find(AnswerSigner)
    if not wants_signed(request.scope["headers"], can_sign=signer is not None) or signer is None:
        return None
    token = signer.sign(kind, caller.audience, answer if isinstance(answer, bytes) else encode_model(answer))
    return Response(token, media_type=JWT_MEDIA_TYPE, headers={"Cache-Control": "no-store"})


def encode_model(answer: BaseModel) -> bytes:
    """Encode a model as FastAPI would."""
    return answer.model_dump_json(by_alias=True).encode()


def encode_event(name: str, data: str, event_id: str | None = None) -> bytes:
    """Encode one event. Each line of *data*, however it is broken, is a line of the event's data.

    >>> encode_event("decision", "{}", "D1")
    b'id: D1\\nevent: decision\\ndata: {}\\n\\n'
    """
    # The id comes first, as readers have always had it; FastAPI would write it last.
    prefix = b"" if event_id is None else f"id: {event_id}\n".encode()
    return prefix + format_sse_event(event=name, data_str="\n".join(data.splitlines()))


class CountedEventStream(EventSourceResponse):
    """An answer that sends *events* as they come, within *counted*, which its route has entered.

    The route counts the stream, so that it can refuse one; only the answer knows when it is over, also if its client
    disconnected before the first event.
    """

    def __init__(self, events: AsyncIterator[bytes], counted: ExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store"})
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await super().__call__(scope, receive, send)
