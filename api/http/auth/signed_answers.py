"""Answers as signed JWTs, on request: evidence that a third party checks offline, by the keys of the transmitter.

A type of its own (`typ`) keeps each apart from security event tokens and access tokens, which it can never pass for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import msgspec

from trustwatch.ingest.errors import TrustwatchError

from .security_event_keys import SecurityEventKeys

JWT_MEDIA_TYPE: Final = "application/jwt"
AnswerKind = Literal["risk", "risks", "decision", "decisions", "alert"]
"""Kinds of answers: each is the name of the claim that holds one, and the middle of its `typ`."""

_JWT: Final = JWT_MEDIA_TYPE.encode()


class SignedAnswersMissing(TrustwatchError):
    """A client wants a signed answer and nothing else, and the service has no keys."""

    code = "not_acceptable"


class AnswerSigner:
    """Signs answers."""

    def __init__(
        self,
        keys: SecurityEventKeys,
        issuer: str,
        lifetime_s: int,
        now_s: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._lifetime_s = lifetime_s
        self._now_s = now_s
        self._new_id = new_id

    def sign(self, kind: AnswerKind, audience: str, body: bytes, answer_id: str = "") -> bytes:
        """*body* (JSON) as the claim *kind* of a compact JWS.

        Raises:
            ConfigError: a key can not be read.
        """
        now = int(self._now_s())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": audience,
            "iat": now,
            "exp": now + self._lifetime_s,
            "jti": answer_id or self._new_id(),
            kind: msgspec.json.decode(body),
        }
        return self._keys.sign(claims, answer_type(kind)).encode()


def answer_type(kind: AnswerKind) -> str:
    """Header `typ` of signed answers of a kind."""
    return f"trustwatch-{kind}+jwt"


def wants_signed(headers: Iterable[tuple[bytes, bytes]], *, can_sign: bool) -> bool:
    """Tell whether a request is to be answered by a signed JWT: where it accepts that, and likes JSON no better.

    Raises:
        SignedAnswersMissing: it accepts nothing else, and the service has none.
    """
    accepted = [value for name, value in headers if name == b"accept" and _JWT in value.lower()]
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
    """Quality of each media range of an Accept header (RFC 9110, 12.5.1); what can not be read is not wanted."""
    qualities: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((value for piece in parameters if (value := piece.removeprefix("q=")) != piece), "1")
        qualities[kind] = float(quality) if quality.replace(".", "", 1).isdigit() and quality.isascii() else 0.0
    return qualities
