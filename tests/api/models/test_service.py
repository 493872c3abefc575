"""Rules of orders about models that hold whoever asks: all tenants, and a reason of bounded length."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from trustwatch.api.http.auth.callers import AuthenticatedCaller, SourceBinding
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.models.service import ModelService
from trustwatch.api.settings.access_settings import EventSourceSettings


class NeverAsked:
    """What must not be asked: everything is refused before."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


class Registry(NeverAsked):
    """Which version is installed, and no more."""

    def installed_model(self) -> Any:
        return type("Installed", (), {"version": "m1"})


def caller(*tenants: str) -> AuthenticatedCaller:
    return AuthenticatedCaller(
        "https://as.example", "ann", "ann", frozenset(), 0.0, SourceBinding(EventSourceSettings("ann", tenants))
    )


def models() -> ModelService:
    nothing: Any = NeverAsked()
    registry: Any = Registry()
    return ModelService(nothing, nothing, registry, nothing, nothing, nothing, nothing)


def refusal(order: Awaitable[object]) -> ProblemError:
    async def wait() -> None:
        await order

    with pytest.raises(ProblemError) as refused:
        asyncio.run(wait())
    return refused.value


def test_models_are_ordered_by_callers_of_all_tenants() -> None:
    """With a reason of bounded length."""
    service, ann, root = models(), caller("acme"), caller("*")

    assert [
        refusal(order).problem.code
        for order in (service.train(ann, "due"), service.rollback(ann, "due"), service.promote(ann, "m2", "due"))
    ] == ["all_tenants_needed"] * 3
    assert [
        refusal(order).problem.status
        for order in (
            service.train(root, "x" * 2_001),
            service.rollback(root, "x" * 2_001),
            service.promote(root, "m2", "x" * 2_001),
            service.history(ann),
        )
    ] == [422, 422, 422, 403]
