"""One configured hook of a product that proves itself by a secret."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from ...scoring.policy.verdict import UNDECIDED
from ..guard import AccessDecision
from .asking import HookDecider
from .base import HookAdapter, HookRequest, HookResponse, ParsedHookRequest, RequestLimitExceeded
from .proof import HookAuthentication

HookResponder = Callable[[HookRequest], HookResponse]


class HookEndpoint:
    """Answers one product. It never fails: what can not be decided is answered as the settings say.

    Args:
        adapter: reads and renders.
        proof: whether a request is from the product.
        asking: asks the guard.
    """

    def __init__(self, product: HookAdapter, proof: HookAuthentication, asking: HookDecider) -> None:
        self.adapter = product
        self._authentication = proof
        self._decider = asking

    async def admit(self, request: HookRequest, _: Scope) -> HookResponder | HookResponse:
        """What answers the request once its body is there, or a refusal that needs none."""
        if self._authentication.needs_body or self._authentication.is_authentic(request):
            return self.answer
        return self._unauthenticated_response()

    def answer(self, request: HookRequest) -> HookResponse:
        """The answer to a whole request."""
        if self._authentication.needs_body and not self._authentication.is_authentic(request):
            return self._unauthenticated_response()
        product = self.adapter
        try:
            asked = product.read_request(request.body)
        except Exception as error:
            return self._failure_response(error)
        decided = self._decider.decide(asked, product.deny_unsupported)
        try:
            answer = self._render(asked, decided)
        except Exception as error:
            decided = self._decider.undecided_decision(error, asked.access_request)
            answer = self._render(asked, decided)
        self._decider.record(asked, decided, product.granted_lifetime_s(asked, decided.verdict))
        return answer

    def _render(self, asked: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        if decided.verdict.reason == UNDECIDED:
            return self._undecided_response(opened=decided.verdict.allow)
        return self.adapter.render_response(asked, decided)

    def _undecided_response(self, *, opened: bool) -> HookResponse:
        return self.adapter.unchanged_response if opened else self.adapter.denial_response(UNDECIDED)

    def too_large(self, _: HookRequest, most: int) -> HookResponse:
        """The answer to a body of more than *most* bytes, which is not read."""
        if self._authentication.needs_body:
            return self._unauthenticated_response()
        return self._failure_response(RequestLimitExceeded(f"a body of more than {most} bytes"))

    def _failure_response(self, error: Exception) -> HookResponse:
        return self._undecided_response(opened=self._decider.fails_open(error, self._decider.settings.tenant or ""))

    def _unauthenticated_response(self) -> HookResponse:
        answer = self.adapter.unauthenticated_response()
        challenge = self._authentication.challenge
        return answer._replace(headers=(*answer.headers, (b"www-authenticate", challenge))) if challenge else answer
