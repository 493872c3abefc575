"""A small agent gets a powerful one to act for somebody whom the powerful one never served."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as concat
from itertools import count

from ..grammar import Step
from ..kinds import PAYEE, PLAN, step
from ..population import SimulatedAgent
from ..roles_business import PAYMENT_PROCESSOR
from ..session import SUCCESS, Chain, Session, resource_text
from .base import Scenario, Strike, own_steps

_CALLERS = frozenset({"ResearchAgent", "CodeReviewer"})
"""Unprivileged, and used to talking to other agents: nothing but the edge and the principal gives them away."""
_CALL = step("send_message", "write", PLAN, "a2a:call", type="a2a.message")
_PAY = next(s for s in PAYMENT_PROCESSOR.steps() if s.action == "process_payment")


def _new_principal(strike: Strike, deputies: list[SimulatedAgent]) -> str:
    """A user for whom nobody acted who may have handed work to the deputies; the caller's own users first."""
    callers = strike.enterprise.of_role(strike.agent.tenant, "Orchestrator")
    known = {user for agent in (*deputies, *callers) for user in agent.users}
    return strike.agent.tenant.user(next(u for u in concat(strike.agent.users, count()) if u not in known))


def _below(strike: Strike, caller: Session, callee: SimulatedAgent) -> Session:
    """The callee's session under a token exchange, opened."""
    caller.step(_CALL, event_label=1, peer=callee.id, outcome=SUCCESS)
    chain = Chain(caller.chain.principal, (caller.agent.id, *caller.chain.actors), caller.chain.trace)
    session = Session(strike.stream, callee, callee.role.tasks[0], caller.at + 150, chain)
    session.open(event_label=1)
    session.think(0.3)
    return session


def _pay(session: Session, pay: Step, number: int) -> None:
    rank = pay.kind.size + 400 + number
    session.step(
        pay, event_label=1, resource=resource_text(session.agent, PAYEE, rank, "new"), outcome=SUCCESS, scale=2
    )
    session.think(0.4)


def play(strike: Strike) -> Iterator[None]:
    """Caller, orchestrator and payment agent in one chain: a new edge, a new principal, three to six payments."""
    draws, enterprise, agent = strike.draws, strike.enterprise, strike.agent
    orchestrator = enterprise.callee(agent, "Orchestrator", strike.at_ms, 0.0)
    payer = None if orchestrator is None else enterprise.callee(orchestrator, "PaymentProcessor", strike.at_ms, 0.0)
    if orchestrator is None or payer is None:
        return
    principal = _new_principal(strike, [orchestrator, payer])
    chain = Chain(principal, (), strike.stream.name())
    caller = Session(strike.stream, agent, agent.role.tasks[0], strike.at_ms, chain)
    caller.open()
    caller.think(0.3)
    caller.step(own_steps(strike, "read")[0], outcome=SUCCESS)
    caller.think()
    middle = _below(strike, caller, orchestrator)
    middle.step(orchestrator.role.tasks[0].steps[0], event_label=1, outcome=SUCCESS)
    middle.think(0.4)
    last = _below(strike, middle, payer)
    for number in range(3 + draws.index(4)):
        _pay(last, _PAY, number)
    yield


CONFUSED_DEPUTY = Scenario(
    "confused_deputy",
    "an unprivileged agent makes an orchestrator pay for a principal it never acted for",
    play,
    _CALLERS,
    needs=("Orchestrator", "PaymentProcessor"),
)
