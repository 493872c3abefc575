"""Rates and shares of the door, without HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trustwatch.api.events.admission import MAX_CACHED_AGENTS, AgentRegistry
from trustwatch.api.events.intake import RecentEventIds
from trustwatch.api.events.intake_limits import INITIAL_MEAN_RECORD_BYTES, IntakeLimits
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.http.ledger import Overloaded, TokenBucket
from trustwatch.api.settings.access_settings import EventSourceSettings, RegisteredAgent


def limits(behind: Callable[[], int]) -> IntakeLimits:
    return IntakeLimits(behind, 1_000_000, lambda: 0.0)


def binding(name: str) -> SourceBinding:
    return SourceBinding(EventSourceSettings(name))


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Overloaded) as caught:
        work()
    return caught.value.limit


def test_the_lag_bound_counts_bytes_and_learns_the_size_of_records() -> None:
    """Few large records weigh as much as many small ones."""
    waiting = 0
    site, source = limits(lambda: waiting), binding("a")
    waiting = int(1_000_000 / INITIAL_MEAN_RECORD_BYTES)
    site.check(source)
    site.observe_commit(10_000, 10_000 * 2_000)

    assert refused(lambda: site.check(source)) == "lag"
    waiting = 500
    site.check(source)


def test_a_bucket_pays_debts_with_time_and_saves_no_more_than_a_second() -> None:
    """10 per second: 30 at once cost 2 s; an hour of silence is worth 10."""
    bucket = TokenBucket(10.0, 0.0)
    bucket.consume(30)
    waits = [bucket.wait_s(now) for now in (0.0, 1.5)]
    bucket.wait_s(3600.0)
    bucket.consume(11)

    assert waits == [2.0, 0.5]
    assert bucket.wait_s(3600.0) == pytest.approx(0.1)


def test_a_bucket_that_is_just_empty_waits_for_one_event() -> None:
    """Never zero seconds: that would invite a loop."""
    bucket = TokenBucket(4.0, 0.0)
    bucket.consume(4)

    assert bucket.wait_s(0.0) == 0.25


def test_recent_ids_forget_the_oldest_and_stay_bounded() -> None:
    """At least one generation is remembered, at most two are kept."""
    recent = RecentEventIds(generation=100)
    for number in range(1000):
        recent.add([number])
        assert len(recent) <= 200
        assert all(kept in recent for kept in range(max(0, number - 99), number + 1))

    assert 0 not in recent


def test_the_registry_takes_the_first_match_of_tenant_issuer_and_pattern() -> None:
    """In the order of the settings; other tenants and issuers are other agents. A flood of names changes no answer."""
    entries = [
        RegisteredAgent(tenant=tenant, issuer="i", agent=pattern, type=kind)
        for tenant, pattern, kind in (("t", "pay-*", "Payer"), ("t", "*", "Other"), ("u", "pay-1", "Foreign"))
    ]
    registry = AgentRegistry(entries)

    def kinds() -> list[str | None]:
        asked = (("t", "i", "pay-1"), ("t", "i", "x"), ("u", "i", "pay-1"), ("u", "i", "x"), ("t", "j", "pay-1"))
        return [None if (found := registry.find(*name)) is None else found.type for name in asked]

    before = kinds()
    for number in range(MAX_CACHED_AGENTS + 10):
        registry.find("t", "i", f"flood-{number}")

    assert before == kinds() == ["Payer", "Other", "Foreign", None, None]
    assert len(registry._cache) <= MAX_CACHED_AGENTS


def test_the_registry_remembers_no_long_names() -> None:
    """Ids may have 2,048 characters; 65,536 of them would be memory that a sender chooses."""
    registry = AgentRegistry([RegisteredAgent(tenant="t", issuer="i", agent="*", type="Any")])

    found = registry.find("t", "i", "x" * 2000)

    assert found is not None and found.type == "Any"
    assert registry._cache == {}
