"""No neighbour lifts a tenant's thresholds of calls beyond bounds, and alike tenants lose nothing by that."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.events import decode_event
from trustwatch.models.call_challenges import (
    CallChallenges,
    ForeignValueRates,
    bounded_by_tenant,
    has_neighbours,
    held_out_by_effect,
    ranks_kept,
    tenant_key,
)
from trustwatch.models.neighbour_bounds import MAX_TENANTS, OWN_PART, bounded_part, bounded_scores, rank_calls

from ..support.call_history import SALT

RATES = ForeignValueRates(0.1, 0.2, {})


def calls_of(*parts: tuple[str, int], reads: tuple[str, int] = ("acme", 0)) -> EventColumns:
    """Deletions of tenants, so many of each, behind reading calls of one."""
    event = {"time": "2026-01-05T09:00:00Z", "type": "tool.call", "action": "drop", "outcome": "success"}
    event |= {"agent": {"id": "bot", "issuer": "https://as.example"}}
    told = [("read", *reads), *(("delete", name, count) for name, count in parts)]
    events = [
        decode_event(json.dumps(event | {"effect": effect, "tenant": name}).encode())
        for effect, name, count in told
        for _ in range(count)
    ]
    return ColumnEncoder(SALT).encode(events)


def key_of(tenant: str) -> str:
    return tenant_key(int(calls_of((tenant, 1)).names[0, event_columns.TENANT]))


def challenges_of(columns: EventColumns, scores: NDArray[np.float64]) -> CallChallenges:
    bounded = bounded_by_tenant(columns, scores) if has_neighbours(columns) else {}
    return CallChallenges(RATES, held_out_by_effect(columns, scores), bounded=bounded)


def threshold(challenges: CallChallenges, tenant: str, effect: str = "delete", per_1000: float = 10.0) -> float:
    found = challenges.threshold(effect, per_1000, key_of(tenant))
    assert found is not None
    return found.anomaly_score


@pytest.mark.parametrize("odd", [60, 700])
def test_odd_calls_of_a_neighbour_lift_no_threshold_out_of_reach(odd: int) -> None:
    """Beside 643 calls, which the highest tenth alone would be; nor is a tenant without calls of its own reached."""
    usual, odd_scores = np.linspace(0.2, 0.7, 643), np.full(odd, 0.99)
    attacked = challenges_of(calls_of(("acme", 643), ("globex", odd)), np.append(usual, odd_scores))
    alone = challenges_of(calls_of(("acme", 643)), usual)

    of_all = attacked.by_effect["delete"].threshold(10.0)
    assert of_all is not None and of_all > 0.98
    for tenant in ("acme", "initech"):
        assert threshold(alone, tenant) <= threshold(attacked, tenant) < 0.702
    assert attacked.p_value("delete", 0.9, key_of("acme")) < 0.01 < attacked.p_value("delete", 0.69, key_of("acme"))
    assert threshold(attacked, "globex") > 0.98  # its own calls all count


def test_two_neighbours_count_no_more_than_twice_their_shares() -> None:
    usual, odd = np.linspace(0.2, 0.7, 640), np.full(120, 0.99)
    attacked = challenges_of(calls_of(("acme", 640), ("globex", 60), ("hooli", 60)), np.append(usual, odd))

    assert threshold(attacked, "acme") < 0.702


@pytest.mark.parametrize(("neighbours", "calls", "odd"), [(2, 643, 13), (2, 300, 20), (8, 80, 10)])
def test_neighbours_together_leave_a_tenant_a_part_of_its_share(neighbours: int, calls: int, odd: int) -> None:
    """None of them is over its bound alone; a call of acme, at least, is still among those that wait."""
    names = [f"evil-{number}" for number in range(neighbours)]
    columns = calls_of(("acme", 643), *((name, calls) for name in names))
    theirs = np.append(np.linspace(0.2, 0.7, calls - odd), np.full(odd, 0.99))
    attacked = challenges_of(columns, np.concatenate([np.linspace(0.2, 0.7, 643), *[theirs] * neighbours]))

    assert threshold(attacked, "acme") < 0.702


@pytest.mark.parametrize("own", [0, 3])
def test_rehearsed_calls_of_one_neighbour_move_nothing(own: int) -> None:
    """At the history's end there are hardly any but its own, odd ones: they are its own ground, and nobody else's."""
    usual = np.linspace(0.2, 0.7, 643)
    model = challenges_of(calls_of(("acme", 643), ("globex", 60)), np.append(usual, np.full(60, 0.99)))
    columns = calls_of(("acme", own), ("globex", 300))
    scores = np.append(np.linspace(0.2, 0.7, own), np.full(300, 0.99))
    flooded = msgspec.structs.replace(
        model, rehearsed=held_out_by_effect(columns, scores), bounded_rehearsed=bounded_by_tenant(columns, scores)
    )

    for tenant in ("acme", "initech"):
        assert threshold(flooded, tenant) == threshold(model, tenant) < 0.702
        assert flooded.p_value("delete", 0.9, key_of(tenant)) == model.p_value("delete", 0.9, key_of(tenant)) < 0.02
    assert threshold(flooded, "globex") > 0.98
    assert flooded.p_value("delete", 0.99, key_of("globex")) > 0.9


def test_a_neighbour_alone_makes_no_threshold() -> None:
    """Thirty deletions are too few for a threshold of their own: those of all effects decide, as without the
    neighbour's. A tenant with enough of them keeps its own."""
    columns = calls_of(("acme", 30), ("globex", 200), reads=("acme", 970))
    scores = np.concatenate([np.linspace(0.1, 0.5, 970), np.linspace(0.1, 0.4, 30), np.full(200, 0.99)])
    attacked = challenges_of(columns, scores)

    found = attacked.threshold("delete", 10.0, key_of("acme"))
    assert found is not None and found.effect == "all" and found.anomaly_score < 0.502
    own = attacked.threshold("delete", 10.0, key_of("globex"))
    assert own is not None and own.effect == "delete" and own.anomaly_score > 0.98


def bounded_score(tenants: list[int], scores: list[float], rank: int, own: int | None) -> float:
    """The same, call by call."""
    counted, of_own, of_others = Counter[int](), 0.0, 0.0
    reserved = 0 if own is None else int(rank * tenants.count(own) / len(tenants) * OWN_PART + 1e-9)
    found = 1.0
    for score, tenant in sorted(zip(scores, tenants, strict=True), key=lambda call: -call[0]):
        if of_own + min(of_others, rank - reserved) > rank - 1 + 1e-9:
            break
        share, found = tenants.count(tenant) / len(tenants), score
        most = len(tenants) if tenant == own else rank * min(2 * share, (1 + share) / 2)
        added = min(counted[tenant] + 1, most) - min(counted[tenant], most)
        of_own, of_others = (of_own + added, of_others) if tenant == own else (of_own, of_others + added)
        counted[tenant] += 1
    return found


@pytest.mark.parametrize("seed", range(40))
def test_bounds_never_lift_a_threshold(seed: int) -> None:
    """Some tenants are odder than others; one that is alone is not bounded."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, 60, 1 + seed % 4)
    tenants = np.repeat(np.arange(len(sizes)), sizes)
    scores = dice.random(len(tenants)) ** dice.uniform(0.1, 3.0, len(sizes))[tenants]
    calls, ranks = rank_calls(tenants.astype(np.uint64), scores), ranks_kept(len(tenants), 8)
    pooled = np.sort(scores)[::-1][ranks - 1]
    for own in (None, *range(len(sizes))):
        found = bounded_scores(calls, ranks, own).scores
        assert (np.diff(found) <= 0).all() and (found <= pooled).all()
        assert found.tolist() == [bounded_score(tenants.tolist(), scores.tolist(), rank, own) for rank in ranks]
        if len(sizes) == 1:
            assert (found == pooled).all()


def test_alike_tenants_lose_next_to_nothing() -> None:
    """Six of 2,000 calls each: of 1,000 honest calls no more than one more waits."""
    dice = np.random.default_rng(5)
    tenants, scores = np.repeat(np.arange(6, dtype=np.uint64), 2_000), dice.random(12_000)
    (found,) = bounded_scores(rank_calls(tenants, scores), np.array([120])).scores

    assert (scores > found).mean() <= 0.011


def test_few_tenants_are_told_apart() -> None:
    """However many a model has; the share of who fills all is all."""
    names = [(f"t-{number}", 40 + number) for number in range(60)]
    columns = calls_of(*names)
    scores = np.random.default_rng(2).random(len(columns)) ** 0.3
    challenges = challenges_of(columns, scores)

    assert len(challenges.tenants) <= 2 * (MAX_TENANTS + 1)
    assert challenges_of(calls_of(("acme", 300)), np.linspace(0.0, 1.0, 300)).document().keys() == {
        "foreign",
        "by_effect",
        "rehearsed",
    }
    assert CallChallenges.from_settings({"challenges": challenges.document()}) == challenges
    assert bounded_part(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
