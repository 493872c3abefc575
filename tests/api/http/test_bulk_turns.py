"""Turns of bulk work: how much is done at a time, and how much of a tenant waits."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.http.store_executor import AT_ONCE, MAX_TENANT_BYTES, MAX_TENANT_PIECES, BulkTurns, TooMuchBulkWork


def test_one_piece_of_a_tenant_and_few_in_all_are_worked_on() -> None:
    turns, active, most, done = BulkTurns(), Counter[str](), Counter[str](), Counter[str]()

    async def work(tenant: str) -> None:
        async with turns.turn(tenant, 100):
            active[tenant] += 1
            most[tenant] = max(most[tenant], active[tenant])
            most["all"] = max(most["all"], active.total())
            await asyncio.sleep(0)
            active[tenant] -= 1
            done[tenant] += 1

    async def run() -> None:
        await asyncio.gather(*(work(tenant) for tenant in "abc" for _ in range(20)))

    asyncio.run(run())

    assert done == {"a": 20, "b": 20, "c": 20}
    assert most == {"a": 1, "b": 1, "c": 1, "all": AT_ONCE}


def test_what_a_tenant_has_waiting_is_bounded() -> None:
    """By number and by bytes; another tenant, and one piece of any size, are still taken."""
    turns, release = BulkTurns(), asyncio.Event()

    async def work(tenant: str, size: int) -> None:
        async with turns.turn(tenant, size):
            await release.wait()

    async def run() -> list[BaseException | None]:
        tasks = [asyncio.create_task(work("many", 1)) for _ in range(MAX_TENANT_PIECES + 3)]
        tasks += [asyncio.create_task(work("large", 2 * MAX_TENANT_BYTES)), asyncio.create_task(work("large", 1))]
        await asyncio.sleep(0)
        with pytest.raises(TooMuchBulkWork, match="too many large bodies"):
            turns.check("large", 1)
        turns.check("other", 1)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(run())

    assert [isinstance(error, TooMuchBulkWork) for error in found] == [
        *[False] * MAX_TENANT_PIECES,
        *[True] * 3,
        False,
        True,
    ]
    assert not turns._tenants


async def _order(tenants: str) -> str:
    """Tenants in the order in which they had their turn, one at a time; all but the first waited for it."""
    turns, had = BulkTurns(at_once=1), []

    async def work(tenant: str) -> None:
        async with turns.turn(tenant, 0):
            had.append(tenant)
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, tenants))
    return "".join(had)


def test_tenants_take_turns() -> None:
    assert asyncio.run(_order("aaaabbc")) == "abcabaa"
    assert asyncio.run(_order("")) == ""


@given(st.text("abc", max_size=12))
def test_every_piece_has_a_turn_and_no_tenant_has_two_before_another_one(tenants: str) -> None:
    had = asyncio.run(_order(tenants))

    assert sorted(had) == sorted(tenants)
    for at, tenant in enumerate(had):
        again = had.find(tenant, at + 1)
        between = had[at + 1 : again] if again > 0 else ""
        assert len(set(between)) == len(between)
        if again > 0:
            assert set(had[again:]) - {tenant} <= set(between)


@pytest.mark.parametrize("given_first", [False, True], ids=["while it waits", "as its turn comes"])
def test_who_leaves_holds_up_nothing(given_first: bool) -> None:
    async def leave() -> None:
        turns, had, ending = BulkTurns(at_once=1), [], asyncio.Event()

        async def hold() -> None:
            async with turns.turn("a", 0):
                await ending.wait()

        async def work(tenant: str) -> None:
            async with turns.turn(tenant, 0):
                had.append(tenant)

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(work(tenant)) for tenant in "bc"]
        await asyncio.sleep(0)
        if given_first:
            ending.set()
            await asyncio.sleep(0)  # the holder ends, and the next is about to run
        tasks[0].cancel()
        if not given_first:
            await asyncio.sleep(0)
            ending.set()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert had == ["c"]
        await asyncio.wait_for(asyncio.gather(holder, work("d")), 5)

    asyncio.run(leave())
