"""One configured hook of a product that proves itself by a secret."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from ...scoring.policy.verdict import UNDECIDED
from ..guard import Decided
from .asking import Asking
from .base import Asked, HookAnswer, HookRequest, Product, TooMuch
from .proof import Proof

Answering = Callable[[HookRequest], HookAnswer]


class HookEndpoint:
    """Answers one product. It never fails: what can not be decided is answered as the settings say.

    Args:
        product: reads and renders.
        proof: whether a request is from the product.
        asking: asks the guard.
    """

    def __init__(self, product: Product, proof: Proof, asking: Asking) -> None:
        self.product = product
        self._proof = proof
        self._asking = asking

    async def admit(self, request: HookRequest, _: Scope) -> Answering | HookAnswer:
        """What answers the request once its body is there, or a refusal that needs none."""
        if self._proof.of_body or self._proof.holds(request):
            return self.answer
        return self._unauthenticated()

    def answer(self, request: HookRequest) -> HookAnswer:
        """The answer to a whole request."""
        if self._proof.of_body and not self._proof.holds(request):
            return self._unauthenticated()
        product = self.product
        try:
            asked = product.read(request.body)
        except Exception as error:
            return self._failed(error)
        decided = self._asking.decide(asked, product.fit)
        try:
            answer = self._rendered(asked, decided)
        except Exception as error:
            decided = self._asking.undecided(error, asked.question)
            answer = self._rendered(asked, decided)
        self._asking.record(asked, decided, product.lifetime_s(asked, decided.verdict))
        return answer

    def _rendered(self, asked: Asked, decided: Decided) -> HookAnswer:
        if decided.verdict.reason == UNDECIDED:
            return self._undecided(opened=decided.verdict.allow)
        return self.product.render(asked, decided)

    def _undecided(self, *, opened: bool) -> HookAnswer:
        return self.product.unchanged if opened else self.product.refused(UNDECIDED)

    def too_large(self, _: HookRequest, most: int) -> HookAnswer:
        """The answer to a body of more than *most* bytes, which is not read."""
        if self._proof.of_body:
            return self._unauthenticated()
        return self._failed(TooMuch(f"a body of more than {most} bytes"))

    def _failed(self, error: Exception) -> HookAnswer:
        return self._undecided(opened=self._asking.fails_open(error, self._asking.settings.tenant or ""))

    def _unauthenticated(self) -> HookAnswer:
        answer = self.product.unauthenticated()
        challenge = self._proof.challenge
        return answer._replace(headers=(*answer.headers, (b"www-authenticate", challenge))) if challenge else answer
