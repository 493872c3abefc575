"""A small agent gets a powerful one to act for somebody whom the powerful one never served."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as concat
from itertools import count

from ..grammar import TaskStep
from ..kinds import PAYEE, PLAN, make_step
from ..population import SimulatedAgent
from ..roles_business import PAYMENT_PROCESSOR
from ..session import SUCCESS_JSON, DelegationContext, SimulatedSession, resource_json
from .base import AttackContext, AttackScenario, usual_steps

_CALLER_ROLES = frozenset({"ResearchAgent", "CodeReviewer"})
"""Unprivileged, and used to talking to other agents: nothing but the edge and the principal gives them away."""
_CALL_STEP = make_step("send_message", "write", PLAN, "a2a:call", type="a2a.message")
_PAYMENT_STEP = next(s for s in PAYMENT_PROCESSOR.steps() if s.action == "process_payment")


def _unserved_principal(strike: AttackContext, deputies: list[SimulatedAgent]) -> str:
    """A user for whom nobody acted who may have handed work to the deputies; the caller's own users first."""
    callers = strike.enterprise.agents_with_role(strike.agent.tenant, "Orchestrator")
    known = {user for agent in (*deputies, *callers) for user in agent.users}
    return strike.agent.tenant.user_address(next(u for u in concat(strike.agent.users, count()) if u not in known))


def _delegated_session(strike: AttackContext, caller: SimulatedSession, callee: SimulatedAgent) -> SimulatedSession:
    """The callee's session under a token exchange, opened."""
    caller.perform(_CALL_STEP, event_label=1, peer=callee.id, outcome=SUCCESS_JSON)
    chain = DelegationContext(
        caller.delegation.principal, (caller.agent.id, *caller.delegation.actors), caller.delegation.trace
    )
    session = SimulatedSession(strike.stream, callee, callee.role.tasks[0], caller.clock_ms + 150, chain)
    session.obtain_token(event_label=1)
    session.pause(0.3)
    return session


def _make_payment(session: SimulatedSession, pay: TaskStep, number: int) -> None:
    rank = pay.kind.size + 400 + number
    session.perform(
        pay, event_label=1, resource=resource_json(session.agent, PAYEE, rank, "new"), outcome=SUCCESS_JSON, scale=2
    )
    session.pause(0.4)


def play_confused_deputy(strike: AttackContext) -> Iterator[None]:
    """Caller, orchestrator and payment agent in one chain: a new edge, a new principal, three to six payments."""
    draws, enterprise, agent = strike.draws, strike.enterprise, strike.agent
    orchestrator = enterprise.find_callee(agent, "Orchestrator", strike.at_ms, 0.0)
    payer = (
        None if orchestrator is None else enterprise.find_callee(orchestrator, "PaymentProcessor", strike.at_ms, 0.0)
    )
    if orchestrator is None or payer is None:
        return
    principal = _unserved_principal(strike, [orchestrator, payer])
    chain = DelegationContext(principal, (), strike.stream.next_number())
    caller = SimulatedSession(strike.stream, agent, agent.role.tasks[0], strike.at_ms, chain)
    caller.obtain_token()
    caller.pause(0.3)
    caller.perform(usual_steps(strike, "read")[0], outcome=SUCCESS_JSON)
    caller.pause()
    middle = _delegated_session(strike, caller, orchestrator)
    middle.perform(orchestrator.role.tasks[0].steps[0], event_label=1, outcome=SUCCESS_JSON)
    middle.pause(0.4)
    last = _delegated_session(strike, middle, payer)
    for number in range(3 + draws.uniform_index(4)):
        _make_payment(last, _PAYMENT_STEP, number)
    yield


CONFUSED_DEPUTY = AttackScenario(
    "confused_deputy",
    "an unprivileged agent makes an orchestrator pay for a principal it never acted for",
    play_confused_deputy,
    _CALLER_ROLES,
    needs=("Orchestrator", "PaymentProcessor"),
)
