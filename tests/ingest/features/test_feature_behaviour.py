"""What each family of features says, on histories made by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT, RESOURCE, TARGET
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.features.feature_vector import reset_reference
from trustwatch.ingest.features.layout import (
    K_CREDENTIAL,
    K_TRANSITION,
    N_MEAN,
    N_NOVELTY,
    N_SEEN,
    Q_GAP,
    Q_PACE_1M,
    Q_SESSION,
    TIMED_QUANTITIES,
)
from trustwatch.ingest.features.row_observations import LATE_EVENT, OUT_OF_ORDER_EVENT

from ...support.feature_histories import SingleEventBuilder, columns, event, fitted, overflows

HOUR, DAY = 3600.0, 86_400.0


def steady(count: int, gap_s: float = 60.0, start_s: float = 0.0, **members: Any) -> list[dict[str, Any]]:
    """The same event again and again."""
    return [event(start_s + gap_s * i, **members) for i in range(count)]


def peers(count: int = 40, **members: Any) -> list[dict[str, Any]]:
    """History of ten other agents of the same role."""
    return [event(60.0 * i, agent=f"peer-{i % 10}", **members) for i in range(count)]


# --- pace -------------------------------------------------------------------------------------------------------------


def test_pace_rises_with_a_burst_at_the_half_life_that_sees_it() -> None:
    """Ten events in a second stand out of one a minute at one minute more than at four hours."""
    watch = SingleEventBuilder()
    calm = watch.last(*steady(100))
    burst = watch.last(*steady(10, 0.1, 6000.0))

    assert calm["pace_1m"] < 0.5
    assert burst["pace_1m"] > 4.0
    assert burst["pace_1m"] > burst["pace_15m"] > burst["pace_4h"]


def test_pace_counts_what_an_event_stands_for() -> None:
    """One event with a count of ten weighs as ten events."""
    one, ten = SingleEventBuilder(), SingleEventBuilder()
    one.feed(*steady(100))
    ten.feed(*steady(100))

    assert ten.last(event(6000, count=10))["pace_1m"] > one.last(event(6000))["pace_1m"] + 3.0


def test_pace_decays_by_half_in_its_half_life() -> None:
    """After one minute of silence, a decayed count of 1 has become a half, and the next event makes it 1.5."""
    watch = SingleEventBuilder()
    watch.feed(event(0), event(60))

    assert watch.found.quantities[1, Q_PACE_1M] == pytest.approx(math.log1p(1.5), rel=1e-6)


def test_dormancy_measures_the_pause_against_usual_pauses() -> None:
    """A month of silence is far above pauses of a minute; one more minute is not."""
    watch = SingleEventBuilder()
    watch.feed(*steady(50))

    assert watch.last(event(50 * 60))["dormancy"] < 0.5
    assert watch.last(event(50 * 60 + 30 * DAY))["dormancy"] > 20


# --- rarity -----------------------------------------------------------------------------------------------------------


def test_rarity_has_the_numbers_of_witten_bell() -> None:
    """After three uses of one action a new one has probability (0 + 2) / (3 + 1 + 1), the known one is certain."""
    watch = SingleEventBuilder()
    watch.feed(*steady(3))

    new = watch.feed(event(200, action="wipe"), learn=False)[0]
    known = watch.feed(event(200), learn=False)[0]

    assert new["action_surprise"] == pytest.approx(-math.log2(2 / 5))
    assert known["action_surprise"] == 0.0


NAMED = [
    ("resource_surprise", {"resource": {"id": "acct-1"}}, {"resource": {"id": "acct-2"}}),
    ("target_surprise", {"resource": {"target": "a.example"}}, {"resource": {"target": "b.example"}}),
    ("audience_surprise", {"resource": {"audience": "https://a"}}, {"resource": {"audience": "https://b"}}),
    ("peer_surprise", {"peer": "ledger"}, {"peer": "stranger"}),
    ("principal_surprise", {"principal": {"id": "ann"}}, {"principal": {"id": "eve"}}),
    ("network_surprise", {"client": {"ip": "10.0.0.1"}}, {"client": {"ip": "203.0.113.5"}}),
    ("credential_surprise", {"credential": {"thumbprint": "k1"}}, {"credential": {"thumbprint": "k2"}}),
    ("scope_surprise", {"scopes": {"requested": ["r"]}}, {"scopes": {"requested": ["r", "w"]}}),
    ("chain_surprise", {"delegation": ["a1", "boss"]}, {"delegation": ["a1", "other"]}),
    ("effect_surprise", {"effect": "read"}, {"effect": "delete"}),
    ("outcome_surprise", {"outcome": "success"}, {"outcome": "denied"}),
    ("provenance_surprise", {"resource": {"provenance": "granted"}}, {"resource": {"provenance": "derived"}}),
]


@pytest.mark.parametrize(("name", "habit", "change"), NAMED, ids=[name for name, _, _ in NAMED])
def test_rarity_of_each_kind(name: str, habit: dict[str, Any], change: dict[str, Any]) -> None:
    """Of each kind, what an agent has never done surprises by bits more than what it always does."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, **habit))

    usual = watch.feed(event(2000, **habit), learn=False)[0]
    unusual = watch.feed(event(2000, **change), learn=False)[0]

    assert usual[name] < 1.2
    assert unusual[name] > usual[name] + 3.0


def test_rarity_of_an_absent_member_is_zero() -> None:
    """What an event does not say surprises nobody."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, peer="ledger", resource={"id": "acct-1"}))

    bare = watch.last(event(2000))

    assert bare["peer_surprise"] == bare["resource_surprise"] == bare["target_surprise"] == 0.0


def test_rarity_for_an_agent_differs_from_rarity_for_its_peers() -> None:
    """An action that all peers use, and this agent never did, is new to it, but not rare among peers."""
    watch = SingleEventBuilder(fitted(peers(action="refund")))
    watch.feed(*steady(30, action="read_ticket"))

    refund = watch.feed(event(2000, action="refund"), learn=False)[0]
    own = watch.feed(event(2000, action="read_ticket"), learn=False)[0]

    assert refund["action_rarity_peers"] < 1.0 < own["action_rarity_peers"]
    assert refund["action_surprise"] > own["action_surprise"] + 3.0
    assert refund["identity_shift"] > own["identity_shift"] == 0.0


def test_an_agent_that_is_its_whole_peer_group_is_compared_with_nobody() -> None:
    """No peers, no evidence from peers: neither a stranger's habits nor the fleet's make it odd among its own."""
    others = fitted(peers(400, action="refund", role="Robot"))
    alone = SingleEventBuilder(others)
    alone.feed(*steady(30, action="read_ticket"))

    own = alone.feed(event(2000, action="read_ticket"), learn=False)[0]
    new = alone.feed(event(2000, action="refund"), learn=False)[0]

    assert own["action_rarity_peers"] == new["action_rarity_peers"] == 0.0
    assert own["identity_shift"] == new["identity_shift"] == 0.0
    assert new["action_surprise"] > 3.0


def test_rarity_of_a_new_agent_is_what_its_peers_say() -> None:
    """Before an agent has a history, its peer group's habits are its own; a stranger's role has none."""
    watch = SingleEventBuilder(fitted(peers(action="refund")))

    of_role = watch.feed(event(action="refund"), learn=False)[0]
    unusual = watch.feed(event(action="wipe"), learn=False)[0]

    assert of_role["action_surprise"] == 0.0
    assert unusual["action_surprise"] == pytest.approx(-math.log2(2 / 42))


def test_rarity_follows_the_declared_task() -> None:
    """Within a declared task its own habits weigh most: the same action fits one task and not the other."""
    past = peers(200, action="pay", task="invoices") + peers(200, action="read_ticket", task="tickets")
    watch = SingleEventBuilder(fitted(past))

    fits = watch.feed(event(action="pay", task="invoices"), learn=False)[0]
    misfit = watch.feed(event(action="pay", task="tickets"), learn=False)[0]

    assert misfit["action_surprise"] > fits["action_surprise"] + 5.0


def test_novelty_counts_names_new_to_the_agent() -> None:
    """A spray over new resources raises the decayed number of new names; known ones do not."""
    watch = SingleEventBuilder()
    watch.feed(*steady(40, resource={"id": "acct-1"}))
    known = watch.last(event(2400, resource={"id": "acct-1"}))
    spray = watch.feed(*[event(2401 + i, resource={"id": f"acct-{i + 2}"}) for i in range(20)], learn=False)

    assert known["novelty_1h"] == 0.0
    assert spray[-1]["novelty_1h"] > 5.0


def in_order(at_s: float, session: str, *actions: str) -> list[dict[str, Any]]:
    """Actions of one session, a second apart."""
    return [event(at_s + i, action=action, session=session) for i, action in enumerate(actions)]


def test_action_on_a_target_of_another_action() -> None:
    """Read goes to x and write to y: write on x surprises, although action and target are both known."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, action="read", resource={"id": "x"}), *steady(30, 60.0, 1800.0, resource={"id": "y"}))

    fits = watch.feed(event(4000, action="read", resource={"id": "x"}), learn=False)[0]
    crossed = watch.feed(event(4000, resource={"id": "x"}), learn=False)[0]

    assert fits["action_target_surprise"] < 0.5
    assert crossed["action_target_surprise"] == pytest.approx(-math.log2(2 / 32))
    assert max(crossed["action_surprise"], crossed["target_surprise"]) < 1.5


# --- order ------------------------------------------------------------------------------------------------------------


def test_order_of_actions_in_a_session() -> None:
    """After read, send is the habit; read after send within a session is not, although both are common."""
    watch = SingleEventBuilder()
    for i in range(40):
        watch.feed(*in_order(600.0 * i, f"s{i}", "read", "send", "close"))

    usual = watch.feed(*in_order(30_000, "x", "read", "send", "close"))
    turned = watch.feed(*in_order(31_000, "y", "send", "read", "close"))

    assert max(vector["transition_surprise"] for vector in usual) < 0.5
    assert min(vector["transition_surprise"] for vector in turned) > 4.0
    assert max(vector["action_surprise"] for vector in turned) < 2.0


def test_order_of_interleaved_sessions_is_kept_apart() -> None:
    """Two sessions at once do not disturb each other's order."""
    watch = SingleEventBuilder()
    for i in range(40):
        at = 600.0 * i
        watch.feed(
            event(at, action="read", session=f"a{i}"),
            event(at + 1, action="read", session=f"b{i}"),
            event(at + 2, action="send", session=f"a{i}"),
            event(at + 3, action="send", session=f"b{i}"),
        )

    vectors = watch.feed(
        event(30_000, action="read", session="x"),
        event(30_001, action="read", session="y"),
        event(30_002, action="send", session="x"),
        event(30_003, action="send", session="y"),
    )

    assert max(vector["transition_surprise"] for vector in vectors) < 0.5


def test_order_without_sessions_ends_with_half_an_hour_of_silence() -> None:
    """Where events name no session, a pause of more than half an hour begins a new one."""
    watch = SingleEventBuilder()
    watch.feed(*steady(5, 60.0), event(5 * 60 + 1900), event(5 * 60 + 1960))

    lengths = np.expm1(watch.found.quantities[:, Q_SESSION]).round().tolist()

    assert lengths == [1, 2, 3, 4, 5, 1, 2]


def test_repeat_surprises_more_with_each_octave() -> None:
    """Agents that use an action once a session make a runaway loop stand out, and more the longer it runs."""
    watch = SingleEventBuilder()
    watch.feed(*[event(100 * i, action="pay", session=f"s{i}") for i in range(60)])

    loop = [v["repeat_surprise"] for v in watch.feed(*[event(9000 + i, action="pay", session="x") for i in range(64)])]

    assert loop[0] < 0.5
    assert loop[1] > 4.0
    assert loop[63] > 3.0


def test_session_length_and_strangeness_gather() -> None:
    """A long odd session raises its length and the strangeness that it has gathered, step by step."""
    watch = SingleEventBuilder()
    for i in range(40):
        watch.feed(event(600 * i, action="read", session=f"s{i}", resource={"id": "a"}))

    odd = watch.feed(*[event(30_000 + i, action=f"x{i}", session="x", resource={"id": f"n{i}"}) for i in range(6)])

    strange = [vector["session_strangeness"] for vector in odd]
    assert strange == sorted(strange)
    assert strange[-1] > 2.5
    assert odd[-1]["session_length"] > 3.0


# --- effect, failure, privilege ---------------------------------------------------------------------------------------


def test_write_surprise_weighs_by_effect() -> None:
    """The same new action weighs 0.7 as read, 1 as write or delete, 1.25 as admin and 0.85 where nobody says."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30))
    weight = {}
    for effect in ("read", "write", "delete", "admin", "unknown"):
        vector = watch.feed(event(2000, action="wipe", effect=effect), learn=False)[0]
        weight[effect] = vector["write_surprise"] / max(vector["action_surprise"], vector["transition_surprise"])

    assert weight == pytest.approx({"read": 0.7, "write": 1.0, "delete": 1.0, "admin": 1.25, "unknown": 0.85})


def test_failure_and_denial_pace_are_told_apart() -> None:
    """Errors raise the pace of failures alone, denials that of denials alone."""
    broken, refused = SingleEventBuilder(), SingleEventBuilder()
    broken.feed(*steady(50))
    refused.feed(*steady(50))

    errors = broken.feed(*steady(10, 1.0, 3000.0, outcome="error"), learn=False)[-1]
    denials = refused.feed(*steady(10, 1.0, 3000.0, outcome="denied"), learn=False)[-1]

    assert errors["failure_pace"] > 5 and errors["denial_pace"] == 0
    assert denials["denial_pace"] > 5 and denials["failure_pace"] == 0


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("denied", "ext_authz_denied"),
        ("denied", "revoked_by_trustwatch"),
        ("error", "ext_authz_error"),
        ("error", "trustwatch_unavailable"),
    ],
)
def test_what_we_caused_is_no_behaviour(outcome: str, error: str) -> None:
    """Our denials and outages change nothing: zero vectors, and the next event is as if they never were."""
    watched, undisturbed = SingleEventBuilder(), SingleEventBuilder()
    watched.feed(*steady(30))
    undisturbed.feed(*steady(30))

    ours = watched.feed(*steady(200, 1.0, 1800.0, outcome=outcome, error=error, action="wipe"))

    assert all(value == 0.0 for vector in ours for value in vector.values())
    assert watched.last(event(2100)) == undisturbed.last(event(2100))


def test_scope_gap_and_breadth() -> None:
    """The gap is the share of requested scopes that were not granted; breadth is their number against the usual."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, scopes={"requested": ["a"], "granted": ["a"]}))

    wide = watch.last(event(2000, scopes={"requested": ["a", "b", "c", "d"], "granted": ["a"]}))

    assert wide["scope_gap"] == 0.75
    assert wide["scope_breadth"] == pytest.approx((math.log(5) - math.log(2)) / 0.297, rel=0.05)


@pytest.mark.parametrize(("capabilities", "flag"), [(["read_ticket"], 0.0), (["other"], 1.0), (None, 0.0)])
def test_outside_capabilities(capabilities: list[str] | None, flag: float) -> None:
    """The flag is raised by an action that declared capabilities lack, never where none are declared."""
    members = {} if capabilities is None else {"capabilities": capabilities}

    assert SingleEventBuilder().last(event(**members))["outside_capabilities"] == flag


# --- delegation, provenance, volume, time -----------------------------------------------------------------------------


def test_delegation_depth_and_new_actor() -> None:
    """A longer chain is deeper than usual, and its actors are new."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, delegation=["a1", "boss"]))

    deep = watch.last(event(2000, delegation=["a1", "x", "y", "z", "boss"]))

    assert deep["chain_depth"] > 2.0
    assert deep["chain_surprise"] == pytest.approx(-math.log2(2 / 32))


@pytest.mark.parametrize(("external", "share"), [(True, 1.0), (False, 0.0), (None, 0.5)])
def test_external_target_is_the_surprise_of_targets_outside(external: bool | None, share: float) -> None:
    """A new target counts whole outside the tenant, not at all inside, and half where nobody knows."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, resource={"id": "inside.example"}))

    vector = watch.last(event(2000, resource={"id": "new.example", "external": external}))

    assert vector["target_surprise"] == pytest.approx(-math.log2(2 / 32))
    assert vector["external_target"] == share * vector["target_surprise"]


def test_volume_of_one_event_and_of_an_hour() -> None:
    """A large answer shows at once; many ordinary ones show in the hour's volume alone."""
    large, many = SingleEventBuilder(), SingleEventBuilder()
    for watch in (large, many):
        watch.feed(*steady(60, 600.0, bytes_in=100, bytes_out=1000, duration_ms=30))

    one = large.last(event(36_600, bytes_in=100, bytes_out=50_000_000, duration_ms=30_000))
    flood = many.last(*steady(300, 1.0, 36_600.0, bytes_in=100, bytes_out=1000, duration_ms=30))

    assert one["bytes_out"] > 20 and one["duration"] > 20 and one["bytes_in"] < 0.5
    assert flood["volume_1h"] > 1 and flood["bytes_out"] < 0.5


def test_hour_of_week_knows_night_and_weekend() -> None:
    """An agent of Monday to Friday mornings surprises at night, and on a Saturday morning."""
    watch = SingleEventBuilder()
    watch.feed(*[event(DAY * day + 60.0 * i) for day in range(5) for i in range(20)])

    morning = watch.feed(event(7 * DAY), learn=False)[0]["hour_surprise"]
    night = watch.feed(event(7 * DAY + 14 * HOUR), learn=False)[0]["hour_surprise"]
    saturday = watch.feed(event(12 * DAY), learn=False)[0]["hour_surprise"]

    assert morning < 0.2
    assert night > 5.0
    assert saturday > 5.0


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_token_lifetime_and_method_downgrade() -> None:
    """A token of a day after tokens of five minutes, and a shared secret after a private key, both show."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, credential={"method": "private_key_jwt", "token_lifetime_s": 300}))

    weak = watch.last(event(2000, credential={"method": "client_secret_post", "token_lifetime_s": 86_400}))
    again = watch.last(event(2100, credential={"method": "private_key_jwt", "token_lifetime_s": 300}))

    assert weak["token_lifetime"] > 10 and weak["method_downgrade"] == 2.0
    assert again["token_lifetime"] == 0.0 and again["method_downgrade"] == 0.0


def test_token_reuse_is_flagged_after_revocation() -> None:
    """Use of a token before its revocation, or of another, is not flagged; use after it is; four are remembered."""

    def use(at_s: float, token: str, kind: str = "tool.call") -> dict[str, Any]:
        return event(at_s, type=kind, credential={"token_id": token})

    watch = SingleEventBuilder()
    watch.feed(use(0, "t1"), use(1, "t1", "token.revoke"), use(2, "t1", "token.revoke"), use(3, "t1"), use(4, "t2"))
    assert watch.found.token_reuse.tolist() == [0, 0, 0, 1, 0]

    watch.feed(*[use(10 + i, f"n{i}", "token.revoke") for i in range(3)], use(20, "t1"))
    assert watch.found.token_reuse[-1] == 1

    watch.feed(use(30, "n3", "token.revoke"), use(31, "t1"), use(32, "n0"))
    assert watch.found.token_reuse.tolist() == [0, 0, 1]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_an_event_is_scored_before_it_is_learned() -> None:
    """The vector of an event is the same whether it is then learned or not; only the next one differs."""
    learning, frozen = SingleEventBuilder(), SingleEventBuilder()
    learning.feed(*steady(30))
    frozen.feed(*steady(30))
    strange = event(2000, action="wipe", resource={"id": "n"}, bytes_out=1e6)

    assert learning.feed(strange) == frozen.feed(strange, learn=False)
    repeat = event(9000, action="wipe", resource={"id": "n"})
    assert learning.last(repeat)["action_surprise"] < frozen.last(repeat)["action_surprise"] - 0.9


@pytest.mark.parametrize(("days", "seen"), [(10, True), (30, True), (180, False)])
def test_drift_sees_a_slow_ramp_that_the_running_baseline_follows(days: float, seen: bool) -> None:
    """Volume that doubles every ten or thirty days takes the usual volume with it, but not the reference of weeks.

    Twice as much in half a year is growth: the reference goes along.
    """
    watch = SingleEventBuilder()
    level = watch.last(*[event(HOUR * i, bytes_out=1000) for i in range(400)])
    ramp = watch.last(*[event(HOUR * (400 + i), bytes_out=1000 * 2 ** (i / 24 / days)) for i in range(1200)])

    assert level["drift"] == 0.0
    assert ramp["volume_1h"] < 3.0
    assert (ramp["drift"] > 1.0) == seen


def test_drift_says_nothing_before_an_active_day_and_200_events() -> None:
    """A sudden jump of volume shows in its distance from the usual; the reference does not know the agent yet."""
    jump = {"bytes_out": 1e6}
    few = SingleEventBuilder().last(*steady(190, 1800.0, bytes_out=1000), event(1800.0 * 190, **jump))
    early = SingleEventBuilder().last(*steady(600, 60.0, bytes_out=1000), event(60.0 * 600, **jump))
    known = SingleEventBuilder().last(*steady(240, 1800.0, bytes_out=1000), event(1800.0 * 240, **jump))

    assert few["volume_1h"] > 4.0 and few["drift"] == 0.0
    assert early["volume_1h"] > 4.0 and early["drift"] == 0.0
    assert known["drift"] > 10.0


def test_drift_is_measured_in_active_time() -> None:
    """A thousand events within an hour are an hour: the reference stays that of the days before."""
    watch = SingleEventBuilder()
    watch.feed(*steady(240, 1800.0, bytes_out=1000))
    busy = watch.last(*steady(1000, 3.6, 1800.0 * 240, bytes_out=1000))

    assert busy["volume_1h"] < 3.0  # the running usual has followed
    assert busy["drift"] > 5.0


def test_a_reference_that_is_forgotten_is_made_of_what_comes() -> None:
    """After an active day the busy hours are what is usual."""
    watch = SingleEventBuilder()
    watch.feed(*steady(240, 1800.0, bytes_out=1000))
    reset_reference(watch.state("numbers"))
    after = watch.feed(*steady(2000, 60.0, 1800.0 * 240, bytes_out=1000))

    assert max(vector["drift"] for vector in after) == 0.0


def test_drift_within_three_deviations_is_none() -> None:
    """An agent whose pace varies tenfold from day to day has the width of that in its reference."""
    watch = SingleEventBuilder()
    days = [
        event(DAY * d + gap * i, bytes_out=1000)
        for d in range(30)
        for gap in (600.0 * (1 + 9 * (d % 2)),)
        for i in range(int(DAY / gap))
    ]
    assert watch.feed(*days)[-1]["drift"] == 0.0
    assert (
        max(
            vector["drift"] for vector in watch.feed(*[event(DAY * 30 + 600.0 * i, bytes_out=1000) for i in range(144)])
        )
        == 0.0
    )


def test_a_version_bump_halves_what_is_known_at_most_once_a_day() -> None:
    """A new version halves the counts (rounding up); a second one on the same day changes nothing more."""

    def known(watch: SingleEventBuilder, version: str) -> float:
        return watch.feed(event(4000, action="wipe", version=version), learn=False)[0]["action_surprise"]

    same, bumped, twice = SingleEventBuilder(), SingleEventBuilder(), SingleEventBuilder()
    for watch in (same, bumped, twice):
        watch.feed(*steady(40, version="1"))
    bumped.feed(event(2500, version="2"))
    twice.feed(event(2500, version="2"))
    twice_before = twice.state("table").copy()
    twice.feed(event(2600, version="3"), learn=False)

    assert known(bumped, "9") < known(same, "1")
    np.testing.assert_array_equal(twice.state("table"), twice_before)
    assert (bumped.state("table") & 1023).max() == 21  # 40 halved, and the event of the new version


def test_late_events_never_move_time_backwards() -> None:
    """Events that are late are flagged; there is no pause before them, and that of the next is from the latest."""
    watch = SingleEventBuilder()
    watch.feed(*steady(5, 60.0, DAY), event(0), event(DAY + 239), event(DAY + 300))

    assert watch.found.flags.tolist() == [0, 0, 0, 0, 0, OUT_OF_ORDER_EVENT, LATE_EVENT, 0]
    assert watch.found.quantities[5:7, Q_GAP].tolist() == [-1.0, -1.0]
    assert watch.found.quantities[7, Q_GAP] == pytest.approx(math.log1p(60.0))


@pytest.mark.parametrize("late", [range(10, 40), range(1, 59), range(30, 31)])
def test_recent_counts_do_not_depend_on_the_order_in_which_events_come(late: range) -> None:
    """A gateway sends later what others sent in time: afterwards pace, failures and volume are what they would be."""
    events = [
        event(20.0 * n, outcome=("success", "error", "denied")[n % 3], bytes_out=1000, resource={"id": f"r{n}"})
        for n in range(60)
    ]
    in_time, buffered = SingleEventBuilder(), SingleEventBuilder()
    in_time.feed(*events, learn=False)
    held = [events[n] for n in late]
    buffered.feed(*(one for one in events if one not in held), *reversed(held), learn=False)

    ours, theirs = (watch.state("numbers")[: N_NOVELTY + 1] for watch in (buffered, in_time))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_what_comes_out_of_order_says_nothing_of_pace_and_order() -> None:
    """An hour's events at once, one after the other or shuffled: no haste, and nothing of it is learned."""
    watch = SingleEventBuilder()
    watch.feed(*(event(60.0 * n, action=("write", "read")[n % 2], session="s", bytes_out=500) for n in range(300)))
    before = watch.state("numbers").copy()

    for found in watch.feed(
        *(event(14_000.0 + 5.0 * n, action="write", session="s", bytes_out=9e6) for n in range(600))
    ):
        timed = (
            "pace_1m",
            "pace_15m",
            "pace_4h",
            "dormancy",
            "volume_1h",
            "novelty_1h",
            "drift",
            "transition_surprise",
        )
        assert {name: found[name] for name in timed} == dict.fromkeys(timed, 0.0)
        assert found["bytes_out"] > 0.0, "the event says all else that it holds"
    timed_moments = [N_MEAN + quantity for quantity in TIMED_QUANTITIES]
    np.testing.assert_array_equal(watch.state("numbers")[timed_moments], before[timed_moments])
    assert watch.last(event(18_000.0, action="write", session="s"))["transition_surprise"] < 0.1, "after the latest"


def test_disorder_of_less_than_a_minute_still_tells() -> None:
    """Parallel calls come in any order: a burst among them is one."""
    watch = SingleEventBuilder()
    watch.feed(*(event(60.0 * n) for n in range(300)))
    burst = [event(18_030.0 - 0.5 * n) for n in range(60)]

    assert watch.last(*burst)["pace_1m"] > 2.0


def _sessions(count: int, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """Sessions of twenty steps, always the same, 40 minutes apart; a *seed* shuffles each."""
    found = []
    for number in range(first, first + count):
        steps = list(range(20))
        if seed:
            random.Random(seed + number).shuffle(steps)
        found += [event(2_400.0 * number + 2.0 * at, action=f"step-{at % 7}", session=f"s{number}") for at in steps]
    return found


def test_shuffled_events_are_no_evidence_of_order() -> None:
    """Actions seem to follow one another that never did: after the first of them nobody says so, and nothing is learned
    of it. Order is evidence again once events have come in order for a while."""
    watch = SingleEventBuilder()
    watch.feed(*_sessions(20))
    shuffled = [vector["transition_surprise"] for vector in watch.feed(*_sessions(10, seed=1, first=20))]
    counted = watch.state("numbers")[N_SEEN + K_TRANSITION]

    assert max(at for at, surprise in enumerate(shuffled) if surprise > 0.0) < 15, "before it shows"
    assert counted <= 415, "of 600"
    watch.feed(*_sessions(8, first=30))
    odd = event(2_400.0 * 37 + 60.0, action="step-0", session="s37")
    assert watch.last(odd)["transition_surprise"] > 4.0


@pytest.mark.parametrize(("behind_s", "more"), [(10.0, {"duration_ms": 60_000.0}), (0.9, {})])
def test_calls_at_once_and_long_ones_are_in_order(behind_s: float, more: dict[str, float]) -> None:
    """Whoever holds a call open, or makes several at once, keeps nothing of its order from us."""
    watch = SingleEventBuilder()
    watch.feed(*_sessions(20))
    calls = [event(48_000.0 + 30.0 * n, action="step-0", session="s", **more) for n in range(20)]
    beside = [event(48_000.0 + behind_s + 30.0 * n, action="step-5", session="s") for n in range(20)]
    both = [one for pair in zip(beside, calls, strict=True) for one in pair]

    assert all(vector["transition_surprise"] > 2.0 for vector in watch.feed(*both, learn=False)[2:])
    assert watch.state("disorder") == 0.0


def test_tokens_that_are_told_another_way_take_no_order_away() -> None:
    """An agent asks for them when it likes: behind a token, the call before it comes from its gateway a bit later."""
    watch = SingleEventBuilder()
    watch.feed(*_sessions(20))
    asked = [
        one
        for n in range(40)
        for one in (
            event(48_005.0 + 60.0 * n, type="token.request", action="token.request", session="s"),
            event(48_000.0 + 60.0 * n, action="step-0", session="s"),
        )
    ]
    watch.feed(*asked, learn=False)

    assert watch.state("disorder") == 0.0
    assert watch.last(event(50_500.0, action="step-5", session="s"))["transition_surprise"] > 2.0


def test_what_no_token_vouches_for_takes_no_order_away() -> None:
    """Neither from the events of a gateway, nor, however it comes, from itself."""
    watch = SingleEventBuilder()
    watch.feed(*_sessions(20))
    claimed = [event(48_000.0 - 50.0 * n, action="step-3", session="s", self_asserted=True) for n in range(20)]
    watch.feed(*claimed, learn=False)

    assert watch.state("disorder") == 0.0
    assert watch.last(event(48_100.0, action="step-0", session="s"))["transition_surprise"] > 2.0


def test_a_throwaway_session_takes_no_order_from_another_one() -> None:
    """Sessions are named by the client: harmless calls out of order in one, and odd ones in order in another."""
    watch, alone = SingleEventBuilder(), SingleEventBuilder()
    odd = [event(48_400.0 + 10.0 * n, action=f"step-{n * 3 % 7}", session="main") for n in range(30)]
    aside = [event(48_000.0 + 10.0 * n + at, action="step-0", session="x") for n in range(16) for at in (5.0, 2.0)]
    for one in (watch, alone):
        one.feed(*_sessions(20))
    watch.feed(*aside, learn=False)
    told, usual = (
        sum(vector["transition_surprise"] > 0.0 for vector in one.feed(*odd, learn=False)) for one in (watch, alone)
    )

    assert watch.state("disorder") > 0.1
    assert told >= usual - 4 > 20


def test_a_claimed_event_ahead_hides_no_disorder() -> None:
    """Time goes on by it, but what a token vouches for is measured by itself."""
    shares = []
    for ahead in (False, True):
        watch = SingleEventBuilder()
        watch.feed(*_sessions(20))
        if ahead:
            watch.feed(event(2_400.0 * 30 + 7_200.0, action="step-1", session="span", self_asserted=True), learn=False)
        watch.feed(*_sessions(10, seed=1, first=20))
        shares.append(watch.state("disorder").item())

    assert shares[1] == pytest.approx(shares[0]) and shares[0] > 0.1


@pytest.mark.parametrize(("beside_s", "is_known"), [(4_190.0, True), (4_800.0, False)])
def test_a_session_that_is_over_seventy_minutes_behind_its_agent_has_no_order(beside_s: float, is_known: bool) -> None:
    """So much of its latest time is kept. What comes then is late for the agent anyway, and tells of no order."""
    watch = SingleEventBuilder()
    watch.feed(event(0.0, action="step-0", session="a"), event(beside_s, action="step-0", session="b"))
    watch.feed(event(10.0, action="step-1", session="a"), event(5.0, action="step-2", session="a"))

    assert (watch.state("disorder") > 0.0) == is_known


def test_an_event_that_no_token_vouches_for_makes_no_other_one_late() -> None:
    """Else anybody who may send some could take the evidence of pace and order from those of the gateway."""
    watch, alone = SingleEventBuilder(), SingleEventBuilder()
    for one in (watch, alone):
        one.feed(*(event(60.0 * n, session="s") for n in range(300)))
    watch.feed(event(19_000.0, session="other", self_asserted=True), learn=False)
    burst = [event(18_000.0 + 0.5 * n, action="write", session="s") for n in range(60)]
    ours, theirs = watch.last(*burst), alone.last(*burst)

    assert set(watch.found.flags.tolist()) == {LATE_EVENT}
    assert ours["pace_1m"] >= 0.9 * theirs["pace_1m"] > 2.0
    assert ours["transition_surprise"] == pytest.approx(theirs["transition_surprise"])
    assert watch.feed(event(18_000.0, session="s"))[0]["pace_1m"] > 0.0 and watch.found.flags.tolist() == [LATE_EVENT]
    watch.feed(event(17_000.0, session="s"))
    assert watch.found.flags.tolist() == [OUT_OF_ORDER_EVENT], "by what the gateway itself has sent"


def test_events_that_no_token_vouches_for_count_in_full_however_late() -> None:
    """They may lower nothing: not each other's evidence either."""
    watch = SingleEventBuilder()
    watch.feed(*(event(60.0 * n, self_asserted=True) for n in range(300)))
    watch.feed(event(19_000.0, self_asserted=True), learn=False)
    burst = [event(18_000.0 + 0.5 * n, self_asserted=True) for n in range(60)]

    assert watch.last(*burst)["pace_1m"] > 2.0
    assert set(watch.found.flags.tolist()) == {LATE_EVENT}


def test_a_long_call_is_not_late_for_its_length() -> None:
    """Dated by its start, told at its end: who holds one open and makes others meanwhile takes nothing from it."""
    watch = SingleEventBuilder()
    watch.feed(*(event(60.0 * n, action=("write", "read")[n % 2], session="s") for n in range(300)))
    watch.feed(event(18_140.0, action="write", session="s"), learn=False)
    held_open = watch.last(event(18_000.0, action="write", session="s", duration_ms=150_000))
    assert watch.found.flags.tolist() == [LATE_EVENT]
    quick = watch.last(event(18_000.0, action="write", session="s", duration_ms=50))
    assert watch.found.flags.tolist() == [OUT_OF_ORDER_EVENT]

    assert held_open["transition_surprise"] > 0.5 > quick["transition_surprise"] == 0.0
    assert watch.last(event(18_150.0, action="write", session="s"))["pace_1m"] > 0.0
    assert watch.found.flags.tolist() == [0], "the latest time of the agent is not moved back by it"


def names_beyond_the_table(rounds: int = 400) -> list[dict[str, Any]]:
    """An agent with far more targets, and sizes of answers, than its table has room for; some come back."""
    return [
        event(60.0 * n, action=f"act_{n % 7}", resource={"id": f"t{n * n % 211}@x.example"}, bytes_out=1 << n * 5 % 37)
        for n in range(rounds)
    ]


def test_which_names_are_forgotten_does_not_depend_on_the_salt() -> None:
    """Two trainings of one history must agree: a salt that chose what a full table forgets made other models of it."""
    vectors = []
    for salt in (b"one", b"another", b"third"):
        builder = FeatureBuilder(empty_baseline(), 2)
        vectors.append(builder.observe_and_learn(columns(names_beyond_the_table(), salt))[0])
        assert overflows(builder)

    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])


def test_a_full_region_forgets_names_in_turn_and_not_always_the_same_one() -> None:
    """Of names used once, newcomers do not all take the place of the last newcomer: most of the oldest are gone."""
    watch = SingleEventBuilder()
    oldest = [event(60.0 * n, resource={"id": f"old-{n}"}) for n in range(64)]
    watch.feed(*oldest, *(event(4000.0 + 60.0 * n, resource={"id": f"new-{n}"}) for n in range(400)))

    asked = [event(90_000.0, resource={"id": f"old-{n}"}) for n in range(64)]
    bits = [found["resource_surprise"] for found in watch.feed(*asked, learn=False)]

    assert sum(value == max(bits) for value in bits) > 50


def test_a_flood_of_new_names_evicts_no_habit_and_takes_no_memory() -> None:
    """100,000 new resources push out each other; the agent's actions stay known, and its state has the same size."""
    watch = SingleEventBuilder()
    watch.feed(*steady(50, resource={"id": "acct-1"}, client={"ip": "10.0.0.1"}))
    size = sum(array.nbytes for array in watch.builder.state)
    before = watch.feed(event(4000), learn=False)[0]

    for start in range(0, 100_000, 10_000):
        flood = steady(10_000, 0.1, 4000.0 + start / 10, resource={"id": "acct-1"})
        batch = columns(flood)
        fresh = np.arange(start + 1, start + 10_001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        batch.names[:, RESOURCE] = batch.names[:, TARGET] = fresh
        watch.builder.observe_and_learn(batch)

    after = watch.feed(event(15_000), learn=False)[0]
    network = watch.feed(event(15_000, client={"ip": "10.0.0.1"}), learn=False)[0]["network_surprise"]
    assert sum(array.nbytes for array in watch.builder.state) == size
    assert after["action_surprise"] <= before["action_surprise"]
    assert network < 1.0  # known still; a network never seen has 4 bits and more


def test_an_announced_key_is_known_though_habits_fill_the_table() -> None:
    """Of twenty new keys behind many habits every announced one is known at its next use; unannounced ones are not."""
    crowd = [event(60.0 * n, peer=f"peer-{n % 150}", client={"ip": f"10.{n % 150}.0.1"}) for n in range(3000)]
    known = {}
    for kind in ("client.change", "tool.call"):
        watch = SingleEventBuilder()
        watch.feed(*crowd)
        known[kind] = 0
        for turn in range(20):
            key = {"credential": {"method": "private_key_jwt", "thumbprint": f"key-{turn}"}}
            watch.feed(event(200_000.0 + 60 * turn, type=kind, **key))
            watch.feed(event(200_030.0 + 60 * turn, **key), learn=False)
            known[kind] += not (int(watch.found.new_kinds[0]) >> K_CREDENTIAL) & 1

    assert known["client.change"] == 20
    assert known["tool.call"] < 20


def test_agents_of_other_tenants_and_issuers_are_others() -> None:
    """The same id in another tenant, or from another issuer, is another agent: nobody learns for it."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30, peer="ledger"))

    elsewhere = watch.feed(event(2000, tenant="globex", peer="x"), event(2000, issuer="https://b", peer="x"))

    assert len(watch.builder.slots) == 3
    assert all(vector["dormancy"] == vector["pace_1m"] == 0.0 for vector in elsewhere)


def test_self_asserted_agents_are_measured_and_need_not_be_learned() -> None:
    """An id that no token vouches for is measured as any; with weight 0 its event leaves the baseline as it was."""
    watch = SingleEventBuilder()
    watch.feed(*steady(30))
    batch = columns([event(2000, action="wipe", self_asserted=True)])
    builder = watch.builder
    slots = builder.admit(batch.names[:, AGENT])
    table = builder.state.table.copy()
    vectors, found = np.zeros((1, len(FEATURE_NAMES))), watch.found

    builder.observe(batch, slots, np.array([0]), vectors, found)
    builder.learn(batch, slots, np.array([0]), found, np.zeros(1, np.uint8))

    assert vectors[0, FEATURE_NAMES.index("action_surprise")] == pytest.approx(-math.log2(2 / 32))
    np.testing.assert_array_equal(builder.state.table, table)


def test_all_features_stay_in_their_declared_ranges() -> None:
    """Whatever happens, every feature is finite and within the range that the table declares."""
    watch = SingleEventBuilder(fitted(peers()))
    vectors = np.array([list(v.values()) for v in watch.feed(*_extremes())])

    low, high = np.array([f.low for f in FEATURES]), np.array([f.high for f in FEATURES])
    assert np.isfinite(vectors).all()
    assert (vectors >= low).all() and (vectors <= high).all()


def _extremes() -> list[dict[str, Any]]:
    wild = [
        event(
            i * 10.0 ** (i % 7),
            bytes_in=10.0 ** (i % 300),
            bytes_out=1e300,
            duration_ms=1e15,
            count=10.0 ** (i % 9),
            action=f"a{i}",
            scopes={"requested": [f"s{k}" for k in range(i % 200)], "granted": []},
            delegation=[f"d{k}" for k in range(1 + i % 9)],
            credential={"token_lifetime_s": 1e12, "method": "none"},
        )
        for i in range(300)
    ]
    return steady(300, 1.0) + wild


def test_self_asserted_revocations_push_out_no_real_ones() -> None:
    """Anybody can claim a revocation; a token that was really revoked is still known after eight claims."""
    watch = SingleEventBuilder()
    watch.feed(event(0, type="token.revoke", credential={"token_id": "sha256:stolen"}))
    for n in range(8):
        watch.feed(event(1 + n, self_asserted=True, type="token.revoke", credential={"token_id": f"sha256:forged-{n}"}))
    watch.feed(event(20, credential={"token_id": "sha256:stolen"}))

    assert watch.found.token_reuse[-1] == 1
