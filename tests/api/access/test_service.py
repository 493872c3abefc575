"""Rules of containment that hold whoever asks: bounds of reasons, times and levels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from trustwatch.api.access.service import ContainmentService
from trustwatch.api.http.agent_lookup import AgentSelector
from trustwatch.api.http.auth.callers import AuthenticatedCaller, SourceBinding
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.settings.access_settings import EventSourceSettings

BOT = AgentSelector("bot", "acme", "https://as.example")


class NeverAsked:
    """What must not be asked: everything is refused before."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


def caller(*tenants: str) -> AuthenticatedCaller:
    return AuthenticatedCaller(
        "https://as.example", "ann", "ann", frozenset(), 0.0, SourceBinding(EventSourceSettings("ann", tenants))
    )


def containment() -> ContainmentService:
    nothing: Any = NeverAsked()
    return ContainmentService(nothing, nothing, nothing, nothing)


def refusal(order: Awaitable[object]) -> ProblemError:
    async def wait() -> None:
        await order

    with pytest.raises(ProblemError) as refused:
        asyncio.run(wait())
    return refused.value


@pytest.mark.parametrize(
    ("level", "why", "valid_s", "name"),
    [
        ("extreme", "leak", 60.0, "level"),
        ("unknown", "leak", 60.0, "level"),
        ("high", "", 60.0, "why"),
        ("high", "x" * 2_049, 60.0, "why"),
        ("high", "leak", 59.9, "valid_s"),
        ("high", "leak", 30 * 86_400 + 1.0, "valid_s"),
        ("high", "leak", float("nan"), "valid_s"),
    ],
)
def test_a_pin_has_a_level_a_reason_and_an_end(level: str, why: str, valid_s: float, name: str) -> None:
    problem = refusal(containment().pin(caller("acme"), BOT, level, why, valid_s)).problem

    assert (problem.status, problem.code) == (422, "invalid_request")
    assert problem.members["errors"][0]["path"] == f"$.{name}"


@pytest.mark.parametrize("why", ["", "x" * 2_049])
def test_what_a_person_decides_has_a_reason(why: str) -> None:
    service, ann = containment(), caller("acme")
    orders = (
        service.approve(ann, "i-1", why),
        service.reject(ann, "i-1", why),
        service.withdraw(ann, "i-1", why),
        service.unpin(ann, BOT, why),
    )

    assert [refusal(order).problem.status for order in orders] == [422] * 4


def test_an_approval_holds_for_a_while_and_no_longer() -> None:
    service, ann = containment(), caller("acme")

    assert [refusal(service.approve(ann, "i-1", "known", valid_s)).problem.status for valid_s in (1.0, 1e9)] == [
        422
    ] * 2
