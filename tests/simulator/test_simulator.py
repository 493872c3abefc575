"""The simulated enterprise: deterministic, ordered, valid, and with the habits it is described to have."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.simulator.attack_scenarios import SCENARIOS
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.labelled_events import CLEAN_LABEL, SimulatedEvent, encode_label, write_jsonl
from trustwatch.simulator.population import Attack, Enterprise, SimulationSettings

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = SimulationSettings(
    start=MONDAY, duration=timedelta(days=7), seed=7, agents=52, events_per_agent_day=80, churn=3.0
)


@pytest.fixture(scope="module")
def week() -> list[SimulatedEvent]:
    return list(simulate(SETTINGS))


@pytest.fixture(scope="module")
def decoded(week: list[SimulatedEvent]) -> list[NativeEvent]:
    return [decode_event(event) for event, _, _ in week]


def written(settings: SimulationSettings) -> tuple[bytes, bytes]:
    out, labels = io.BytesIO(), io.BytesIO()
    write_jsonl(simulate(settings), out, labels)
    return out.getvalue(), labels.getvalue()


def small(**changes: Any) -> SimulationSettings:
    values: dict[str, Any] = {"start": MONDAY, "duration": timedelta(hours=30), "agents": 26, "seed": 3}
    return SimulationSettings(**(values | changes))


def test_equal_settings_give_identical_bytes() -> None:
    """Two runs of the same settings agree in every byte of events and labels; another seed does not."""
    settings = small(attacks=tuple(Attack(name) for name in SCENARIOS))

    events, labels = written(settings)

    assert (events, labels) == written(settings)
    assert events != written(small(seed=4))[0]


def test_attacks_do_not_change_what_others_do() -> None:
    """Laying attacks over the enterprise leaves every clean event as it was, byte for byte."""
    attacks = tuple(Attack(name) for name in SCENARIOS if SCENARIOS[name].quiet_before is None)
    calm = [event for event, _, _ in simulate(small())]

    attacked = [event for event, label, _ in simulate(small(attacks=attacks)) if label.scenario == CLEAN_LABEL]

    assert attacked == calm


def test_events_come_in_order_of_event_time(week: list[SimulatedEvent], decoded: list[NativeEvent]) -> None:
    times = [at_ms for _, _, at_ms in week]

    assert times == sorted(times)
    assert SETTINGS.start_ms <= times[0]
    assert times[-1] < SETTINGS.end_ms
    assert [int(event.time.timestamp() * 1000 + 0.5) for event in decoded] == times


def test_events_use_members_of_the_schema_alone(week: list[SimulatedEvent]) -> None:
    """No event has a member that the native schema does not know, at any level that the schema describes."""
    known = set(NativeEvent.__struct_fields__)
    parts = {"agent", "principal", "resource", "scopes", "client", "credential"}
    for event, _, _ in islice(week, 0, None, 50):
        record = json.loads(event)
        assert set(record) <= known
        typed = decode_event(event)
        for part in parts & set(record):
            assert set(record[part]) <= set(getattr(typed, part).__struct_fields__)


def test_ids_are_unique_and_shared_with_nothing_else(decoded: list[NativeEvent]) -> None:
    """Event ids are distinct, and no session or trace is named like an event."""
    ids = {event.id for event in decoded}

    assert len(ids) == len(decoded)
    assert not {f"evt-{(event.session or '')[5:]}" for event in decoded} & ids
    assert not {f"evt-{(event.trace_id or '')[:16]}" for event in decoded} & ids


def test_two_starts_share_no_ids() -> None:
    first = {label.id for _, label, _ in simulate(small())}
    second = {label.id for _, label, _ in simulate(small(start=MONDAY + timedelta(days=7)))}

    assert not first & second


def test_labels_belong_to_their_events(week: list[SimulatedEvent], decoded: list[NativeEvent]) -> None:
    for (_, label, _), event in zip(week, decoded, strict=True):
        assert (label.id, label.agent_id, label.tenant, label.session) == (
            event.id,
            event.agent.id,
            event.tenant,
            event.session,
        )
        assert (label.event_label, label.session_label, label.scenario) == (0, 0, CLEAN_LABEL)


def test_label_file_has_the_format_of_the_real_traces(week: list[SimulatedEvent]) -> None:
    """A label line holds id, session, event_label, session_label and class, as the labels of the real traces do."""
    label = json.loads(encode_label(week[0].label))

    assert set(label) == {"id", "agent_id", "tenant", "session", "event_label", "session_label", "class"}


def test_volume_follows_the_scale(week: list[SimulatedEvent]) -> None:
    """Events per agent and day are within a quarter of what the settings ask for."""
    assert len(week) / 52 / 7 == pytest.approx(80, rel=0.25)


def test_office_agents_work_in_office_hours_of_their_time_zone(decoded: list[NativeEvent]) -> None:
    """Nine tenths of the code reviewers' own events fall on working days between 7 and 19 local time."""
    offsets = {tenant.name: tenant.utc_offset for tenant in Enterprise(SETTINGS).tenants}
    inside = total = 0
    for event in decoded:
        if event.agent.type == "CodeReviewer" and event.type in ("tool.call", "api.call"):
            local = event.time + timedelta(hours=offsets[str(event.tenant)])
            total += 1
            inside += local.weekday() < 5 and 7 <= local.hour < 19

    assert total > 500
    assert inside / total > 0.9
    assert len(set(offsets.values())) == 2


def test_backups_run_at_night(decoded: list[NativeEvent]) -> None:
    """Most events of the backup runners fall before 6 o'clock local time, on week-ends too."""
    offsets = {tenant.name: tenant.utc_offset for tenant in Enterprise(SETTINGS).tenants}
    times = [
        event.time + timedelta(hours=offsets[str(event.tenant)])
        for event in decoded
        if event.agent.type == "BackupRunner"
    ]

    assert sum(time.hour < 6 for time in times) / len(times) > 0.85
    assert any(time.weekday() >= 5 for time in times)


def test_many_roles_types_and_tenants_appear(decoded: list[NativeEvent]) -> None:
    """At least eight roles, two tenants with an issuer each, and every kind of event the enterprise can cause."""
    kinds = {event.type for event in decoded}

    assert len({event.agent.type for event in decoded}) >= 8
    assert {(event.tenant, event.agent.issuer) for event in decoded} == {
        ("acme-corp", "https://as.acme-corp.example"),
        ("globex", "https://as.globex.example"),
    }
    assert kinds >= {"token.request", "token.exchange", "token.refresh", "token.revoke", "client.register"}
    assert kinds >= {"client.change", "tool.call", "api.call", "a2a.message", "approval", "admin"}
    assert {event.outcome for event in decoded} == {"success", "denied", "error"}
    assert {event.effect for event in decoded} >= {"read", "write", "delete", "admin"}


def test_some_agents_are_named_by_uris(decoded: list[NativeEvent]) -> None:
    """Most ids are plain names; some are https and some SPIFFE URIs."""
    ids = {(event.tenant, event.agent.id) for event in decoded}
    schemes = Counter(name.partition("://")[0] if "://" in name else "plain" for _, name in ids)

    assert schemes["plain"] > len(ids) / 2
    assert schemes["https"] > 0
    assert schemes["spiffe"] > 0


def test_work_is_handed_down_by_token_exchange(decoded: list[NativeEvent]) -> None:
    """Chains are two and three deep, start with the actor, and each callee began with a token exchange."""
    depths = Counter(len(event.delegation or ()) for event in decoded)
    first: dict[str, NativeEvent] = {}
    for event in decoded:
        first.setdefault(str(event.session), event)

    assert depths[2] > 0
    assert depths[3] > 0
    for event in decoded:
        if event.delegation:
            assert event.delegation[0] == event.agent.id
    assert {event.type for event in first.values() if len(event.delegation or ()) > 1} == {"token.exchange"}


def test_callers_keep_their_callees(decoded: list[NativeEvent]) -> None:
    stable = {
        (agent.tenant.name, agent.id)
        for agent in Enterprise(SETTINGS).agents
        if agent.is_active(SETTINGS.start_ms) and agent.is_active(SETTINGS.end_ms - 1)
    }
    roles = {(event.tenant, event.agent.id): event.agent.type for event in decoded}
    edges: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for event in decoded:
        if event.peer is not None:
            edges[event.tenant, event.agent.id, roles[event.tenant, event.peer]][event.peer] += 1
    busy = [
        peers
        for (tenant, _, _), peers in edges.items()
        if peers.total() >= 20 and all((tenant, peer) in stable for peer in peers)
    ]

    assert len(busy) >= 3
    for peers in busy:
        assert peers.most_common(1)[0][1] / peers.total() > 0.75


def test_versions_instances_and_keys_change(decoded: list[NativeEvent]) -> None:
    seen: dict[tuple[str | None, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    announced: set[str] = set()
    changes = 0
    for event in decoded:
        agent, credential = event.agent, event.credential
        assert credential is not None
        history = seen[event.tenant, agent.id]
        if event.type == "client.change":
            announced.add(str(credential.thumbprint))
        if history["key"] and history["key"][-1] != credential.thumbprint:
            assert credential.thumbprint in announced
            changes += 1
        for name, value in (("version", agent.version), ("pod", agent.instance), ("key", credential.thumbprint)):
            if not history[name] or history[name][-1] != value:
                history[name].append(str(value))

    assert changes > 0
    assert any(len(history["version"]) > 1 for history in seen.values())
    assert any(len(history["pod"]) > 1 and len(history["version"]) == 1 for history in seen.values())


def test_agents_join_and_retire(decoded: list[NativeEvent]) -> None:
    """A registration is the first event of its agent, a final revocation comes before it falls silent."""
    enterprise = Enterprise(SETTINGS)
    first: dict[tuple[str | None, str], str] = {}
    for event in decoded:
        first.setdefault((event.tenant, event.agent.id), event.type)
    joined = {who for who, kind in first.items() if kind == "client.register"}
    late = {(a.tenant.name, a.id) for a in enterprise.agents if a.active_from > SETTINGS.start_ms}
    revoked = [event for event in decoded if event.type == "token.revoke"]

    assert joined == late
    assert joined
    assert len(revoked) == sum(agent.retires for agent in enterprise.agents)


def test_no_churn_means_one_version_and_instance() -> None:
    events = [decode_event(event) for event, _, _ in simulate(small(churn=0.0))]
    identities = {(e.tenant, e.agent.id, e.agent.version, e.agent.instance) for e in events}

    assert len(identities) == len({(tenant, name) for tenant, name, _, _ in identities})
    assert not {event.type for event in events} & {"client.register", "client.change", "token.revoke"}


def test_agents_meet_new_resources_now_and_then(decoded: list[NativeEvent]) -> None:
    """In the second half of the week some resources are new to their agent, but a small part only."""
    known: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    new = total = 0
    for number, event in enumerate(decoded):
        if event.resource is None or event.resource.target is None:
            continue
        if number > len(decoded) // 2:
            total += 1
            new += event.resource.target not in known[event.tenant, event.agent.id]
        known[event.tenant, event.agent.id].add(event.resource.target)

    assert 0.001 < new / total < 0.25


def test_actions_stay_within_declared_capabilities(decoded: list[NativeEvent]) -> None:
    for event in decoded:
        if event.type in ("tool.call", "api.call", "a2a.message", "approval", "admin"):
            assert event.action in (event.agent.capabilities or ())


def test_an_agent_keeps_to_one_network(decoded: list[NativeEvent]) -> None:
    networks: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for event in decoded:
        assert event.client is not None
        networks[event.tenant, event.agent.id].add(str(event.client.ip).rpartition(".")[0])

    assert {len(found) for found in networks.values()} == {1}


def test_no_event_holds_a_secret(week: list[SimulatedEvent]) -> None:
    """Nothing looks like a token, a key or a password; token ids are fingerprints."""
    secret = re.compile(rb"eyJ[\w-]+\.|Bearer |BEGIN [A-Z ]*KEY|password|api[_-]?key", re.IGNORECASE)
    for event, _, _ in week:
        assert not secret.search(event)
        assert re.search(rb'"token_id":"sha256:[0-9a-f]{64}"', event)


def test_events_are_made_as_they_are_asked_for() -> None:
    """Ten years of 50 agents start at once: nothing is generated ahead beyond a slice."""
    decade = SimulationSettings(start=MONDAY, duration=timedelta(days=3650), agents=50, churn=0.1)

    first = list(islice(simulate(decade), 100))

    assert len(first) == 100
    assert first[-1].at_ms < decade.start_ms + 86_400_000


BAD_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("start", {"start": datetime(2026, 3, 2)}),  # noqa: DTZ001 - the mistake under test
    ("duration", {"duration": timedelta(0)}),
    ("seed", {"seed": -1}),
    ("agents", {"agents": 0}),
    ("tenants", {"tenants": ("a", "a")}),
    ("tenants", {"tenants": ('x"y',)}),
    ("attacks_per_day", {"attacks_per_day": float("nan")}),
    ("events_per_agent_day", {"events_per_agent_day": 0}),
    ("churn", {"churn": -1}),
]


@pytest.mark.parametrize(("name", "change"), BAD_SETTINGS)
def test_wrong_settings_are_named(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name):
        small(**change)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Attack("heist"), "unknown scenario 'heist'"),
        (Attack("burst", timedelta(days=9)), "outside the duration"),
        (Attack("burst", agent="nobody"), "agent 'nobody'"),
    ],
)
def test_wrong_attacks_are_refused_before_the_first_event(attack: Attack, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(small(attacks=(attack,)))
