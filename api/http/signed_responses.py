"""Signed answers of FastAPI's routes: the answer as it would be, as a claim of a JWT where the client wants that."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from .auth.callers import AuthenticatedCaller
from .auth.signed_answers import JWT_MEDIA_TYPE, AnswerKind, AnswerSigner, wants_signed
from .dependencies import services_of
from .schemas import problem_responses

SIGNED_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {JWT_MEDIA_TYPE: {"schema": {"type": "string"}}}},
    **problem_responses({406: "only a signed answer is accepted, and the service signs none"}),
}
"""Answers that a route which signs on request has besides."""


def signed_response(request: Request, caller: AuthenticatedCaller, kind: AnswerKind, body: bytes) -> Response | None:
    """*body* (JSON) signed for the caller; None where the client does not want that. Raises SignedAnswersMissing."""
    signer = services_of(request).find(AnswerSigner)
    if not wants_signed(request.scope["headers"], can_sign=signer is not None) or signer is None:
        return None
    token = signer.sign(kind, caller.audience, body)
    return Response(token, media_type=JWT_MEDIA_TYPE, headers={"Cache-Control": "no-store"})


def encode_model(answer: BaseModel) -> bytes:
    """A model as FastAPI would answer it."""
    return answer.model_dump_json(by_alias=True).encode()
