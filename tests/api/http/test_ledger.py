"""What a tenant may hold in memory, have waiting and create, without HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.http.ledger import (
    AT_ONCE,
    BODY_OVERHEAD_BYTES,
    LIMITS,
    BodyMemory,
    FairQueue,
    HeldBody,
    Ledger,
    NewAgents,
    Overloaded,
    Party,
    TooManyAgents,
)

MIB = 1024 * 1024


def no_time() -> float:
    return 0.0


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Overloaded) as caught:
        work()
    return caught.value.limit


# Bodies in memory


async def receive(held: HeldBody, unfinished: asyncio.Event) -> None:
    with held.receive():
        await unfinished.wait()


def test_unfinished_bodies_of_a_tenant_make_room_for_others() -> None:
    """Those of its largest caller go, and of these the one that waited longest."""

    async def run() -> tuple[list[str], int]:
        memory, never = BodyMemory(total=20 * MIB), asyncio.Event()
        with ExitStack() as stack:
            bodies, tasks = {}, {}
            for name, caller, size in (("a1", "a", 3), ("a2", "a", 3), ("b1", "b", 4)):
                bodies[name] = stack.enter_context(memory.hold(Party("noisy", caller)))
                bodies[name].grow(size * MIB)
                tasks[name] = asyncio.create_task(receive(bodies[name], never))
            await asyncio.sleep(0)
            bodies["a1"].grow(1)  # it goes on, so the other one has waited longer
            other = stack.enter_context(memory.hold(Party("quiet", "q")))
            other.grow(10 * MIB)
            await asyncio.sleep(0.01)
            ended = [name for name, task in tasks.items() if task.done()]
            assert isinstance(tasks["a2"].exception(), Overloaded)
            assert refused(lambda: bodies["a2"].grow(1)) == "memory"
            for task in tasks.values():
                task.cancel()
            return ended, memory.held_bytes

    ended, held = asyncio.run(run())

    assert ended == ["a2"]
    assert held <= 20 * MIB


def test_a_body_that_is_worked_on_is_kept() -> None:
    memory = BodyMemory(total=10 * MIB)
    with memory.hold(Party("noisy", "a")) as first:
        first.grow(9 * MIB)
        with memory.hold(Party("quiet", "q")) as other:
            assert refused(lambda: other.grow(2 * MIB)) == "memory"
        first.grow(MIB // 2)
    assert memory.held_bytes == 0


def test_a_thousand_unfinished_bodies_take_no_more_than_the_bound() -> None:
    """Another tenant finds room at once for a body of the largest size."""

    async def run() -> tuple[int, int]:
        memory, never = BodyMemory(), asyncio.Event()

        async def trickle(caller: str) -> None:
            with memory.hold(Party("noisy", caller)) as held, held.receive():
                for _ in range(16):
                    held.grow(MIB)
                    await asyncio.sleep(0)
                await never.wait()

        tasks = [asyncio.create_task(trickle(f"c{number % 8}")) for number in range(1_000)]
        most = 0
        for _ in range(40):
            await asyncio.sleep(0)
            most = max(most, memory.held_bytes)
        with memory.hold(Party("quiet", "q")) as other:
            other.grow(32 * MIB)
        ended = sum(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return most, ended

    most, ended = asyncio.run(run())

    assert most <= LIMITS["memory"].amount
    assert ended > 900


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from("xy"), st.integers(0, 6 * MIB), st.booleans()),
        max_size=40,
    )
)
def test_a_tenant_within_its_share_always_finds_room(steps: list[tuple[str, str, int, bool]]) -> None:
    """Three tenants: who holds less than a third is never refused, as long as others are only receiving."""

    async def run() -> None:
        memory, never, tasks = BodyMemory(total=30 * MIB), asyncio.Event(), []
        own = Counter[str]()
        with ExitStack() as stack:
            for tenant, caller, size, _ in steps:
                held = memory.hold(Party(tenant, caller))
                body = None
                try:
                    body = stack.enter_context(held)
                    body.grow(size)
                except Overloaded:
                    holds = sum(one.bytes for one in memory._held if one.party.tenant == tenant)
                    assert holds + size + BODY_OVERHEAD_BYTES > 10 * MIB
                    continue
                finally:
                    assert memory.held_bytes <= 30 * MIB
                own[tenant] += size
                tasks.append(asyncio.create_task(receive(body, never)))
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert memory.held_bytes == 0

    asyncio.run(run())


# Bulk work


def test_one_piece_of_a_tenant_and_few_in_all_are_worked_on() -> None:
    queue, active, most, done = FairQueue(no_time), Counter[str](), Counter[str](), Counter[str]()

    async def work(tenant: str) -> None:
        async with queue.ticket(Party(tenant, "c"), 100):
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
    """By number and by bytes; another tenant, and one piece of any size, are still taken. Each refusal is counted."""
    counted = Counter[tuple[str, str]]()

    def count(*labels: str) -> None:
        counted[labels] += 1

    ledger, release = Ledger(no_time, lambda *_: True, count), asyncio.Event()

    async def work(tenant: str, size: int) -> None:
        async with ledger.bulk(Party(tenant, f"console:{tenant}"), size):
            await release.wait()

    most, large = LIMITS["work"].amount, LIMITS["work_bytes"].amount

    async def run() -> list[BaseException | None]:
        tasks = [asyncio.create_task(work("many", 1)) for _ in range(most + 3)]
        tasks += [asyncio.create_task(work("large", 2 * large)), asyncio.create_task(work("large", 1))]
        await asyncio.sleep(0)
        assert refused(lambda: ledger.queue.check(Party("large", "c"), 1)) == "work_bytes"
        ledger.queue.check(Party("other", "c"), 1)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(run())

    assert [isinstance(error, Overloaded) for error in found] == [*[False] * most, *[True] * 3, False, True]
    assert counted == {("console", "work"): 3, ("console", "work_bytes"): 1}
    assert not ledger.queue._pieces and not ledger.queue._used


async def _order(parties: Iterator[Party], cost: Callable[[Party], float] = lambda _: 1.0) -> list[Party]:
    """Return parties in the order in which they had a ticket, one at a time; all but the first waited for it."""
    clock = [0.0]
    queue, had = FairQueue(lambda: clock[0], at_once=1), []

    async def work(party: Party) -> None:
        async with queue.ticket(party):
            had.append(party)
            clock[0] += cost(party)
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, parties))
    return had


def tenants_in_order(tenants: str, cost: Callable[[Party], float] = lambda _: 1.0) -> str:
    return "".join(party.tenant for party in asyncio.run(_order((Party(one, "c") for one in tenants), cost)))


def test_tenants_take_turns_and_so_do_callers_within_one() -> None:
    assert tenants_in_order("aaaabbc") == "abcabaa"
    assert tenants_in_order("") == ""
    callers = asyncio.run(_order(Party("t", caller) for caller in "xxxxy"))
    assert "".join(party.caller for party in callers) == "xyxxx"


def test_time_is_shared_and_not_pieces() -> None:
    """Pieces of one tenant that take four times as long come once for four of the other."""
    order = tenants_in_order("a" * 8 + "b" * 8, lambda party: 4.0 if party.tenant == "a" else 1.0)

    assert order[:10].count("a") == 2


@given(st.text("abc", max_size=12))
def test_every_piece_has_a_turn_and_no_tenant_has_two_before_another_one(tenants: str) -> None:
    had = tenants_in_order(tenants)

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
        queue, had, ending = FairQueue(no_time, at_once=1), [], asyncio.Event()

        async def hold() -> None:
            async with queue.ticket(Party("a", "c")):
                await ending.wait()

        async def work(tenant: str) -> None:
            async with queue.ticket(Party(tenant, "c")):
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


# Agents


def test_new_agents_are_counted_by_tenant_and_known_ones_are_not() -> None:
    """250,000 agents in two minutes were a gigabyte of database."""
    now, most = [0.0], LIMITS["agents"].amount
    agents = NewAgents(lambda _tenant, _issuer, agent: agent.startswith("known"), lambda: now[0])

    def admit(tenant: str, name: str) -> None:
        agents.admit((tenant, "i", name), f"{tenant}/{name}".encode())

    for number in range(most):
        admit("noisy", f"a{number}")
    with pytest.raises(TooManyAgents, match="20000") as error:
        admit("noisy", "one-more")
    admit("noisy", "known-before")
    admit("noisy", "a1")
    admit("quiet", "a1")
    now[0] += error.value.wait_s + 0.01
    admit("noisy", "one-more")
    with pytest.raises(TooManyAgents):
        for number in range(2):  # there may be a debt of one
            admit("noisy", f"more-{number}")
