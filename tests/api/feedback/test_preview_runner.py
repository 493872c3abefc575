"""Turns: one at a time, by tenant, and nobody who left is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.feedback.preview_runner import FairQueue


async def _order(tenants: str) -> str:
    """Tenants in the order in which they had their turn, all but the first having waited for it."""
    turns, had = FairQueue(), []

    async def run(tenant: str) -> None:
        await turns.acquire(tenant)
        had.append(tenant)
        await asyncio.sleep(0)
        turns.release()

    await asyncio.gather(*map(run, tenants))
    return "".join(had)


def test_tenants_take_turns() -> None:
    """Who came with four waits after each of the others' first."""
    assert asyncio.run(_order("aaaabbc")) == "abcabaa"
    assert asyncio.run(_order("")) == ""


@given(st.text("abc", max_size=12))
def test_everybody_has_a_turn_and_nobody_has_two_before_one(tenants: str) -> None:
    """Between two turns of a tenant each other that waits has one."""
    had = asyncio.run(_order(tenants))

    assert sorted(had) == sorted(tenants)
    for at, tenant in enumerate(had):
        again = had.find(tenant, at + 1)
        between = had[at + 1 : again] if again > 0 else ""
        assert len(set(between)) == len(between)
        if again > 0:
            assert set(had[again:]) - {tenant} <= set(between)


@pytest.mark.parametrize("given_first", [False, True], ids=["while it waits", "as its turn comes"])
def test_who_leaves_holds_nobody_up(given_first: bool) -> None:
    """The turn goes on to the next, also where it had just been given."""

    async def leave() -> None:
        turns, had = FairQueue(), []

        async def run(tenant: str) -> None:
            await turns.acquire(tenant)
            had.append(tenant)
            turns.release()

        await turns.acquire("a")
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(run(tenant)) for tenant in "bc"]
        await asyncio.sleep(0)
        if given_first:
            turns.release()
        tasks[0].cancel()
        if not given_first:
            await asyncio.sleep(0)
            turns.release()
        done: Awaitable[object] = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(done, 5)
        assert had == ["c"]
        await asyncio.wait_for(turns.acquire("d"), 5)

    asyncio.run(leave())
