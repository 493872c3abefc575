"""Batches at the door against the reference path, record by record."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.api.events.admission import MAX_CLOCK_AHEAD_S, Admission, AgentRegistry
from trustwatch.api.events.intake import AdmissionOutcome, BatchAdmission
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.settings.access_settings import EventSourceSettings, RegisteredAgent
from trustwatch.ingest import compilation
from trustwatch.ingest.columns import OWN_ERRORS
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.cloudevents import structured_record
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.source import Record
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ...support import scan_records
from ...support.scan_records import compact, mutate, records

NOW_MS = 1_772_500_000_000  # 2026-03-03, behind all events that the tests make
AS = "https://as.acme.example"
BINDINGS = {
    "all": SourceBinding(EventSourceSettings("all", ("*",), ("*",), ("*",), trusted=True)),
    "doubted": SourceBinding(EventSourceSettings("doubted", ("*",), ("*",), ("*",))),
    "one": SourceBinding(EventSourceSettings("one", ("acme",), (AS,), ("urn:*",), trusted=True)),
    "ünnamed": SourceBinding(EventSourceSettings("ünnamed", ("acme", "Zürich"), ("*",), ("*",), trusted=True)),
    "itself": SourceBinding(
        EventSourceSettings("itself", ("acme",), ("*",), ("*",), agents=("self",)), own_agent="a", own_issuers=(AS,)
    ),
    "gateway": SourceBinding(
        EventSourceSettings("gateway", ("*",), ("*",), ("*",), ("a*", "https:*"), trusted=True, enforces=True)
    ),
}
REGISTRY = (
    RegisteredAgent(tenant="acme", issuer=AS, agent="https://*", type="Clerk", capabilities=("read", "zürich", "pay")),
    RegisteredAgent(tenant="acme", issuer="", agent="a*", type="Payer"),
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """An event without what `Admission` alone may write, with another member; `...` leaves it out."""
    made = scan_records.changed(path, value)
    for name, plain in (("error", "boom"), ("caused_by", None), ("unauthorized", None)):
        made[name] = made[name] if path == name and value is not ... else plain
    return made


WHOLE = changed("error", "boom")


def alias(tenant: str, identifier: str) -> str:
    return f"p-{len(tenant)}-{identifier[::-1]}"


class Both:
    """The reference and the batch path of one intake."""

    def __init__(
        self,
        entries: Sequence[RegisteredAgent] = (),
        *,
        aliased: bool = False,
        claim_slots: int = 1 << 10,
        scope_actions: Mapping[str, tuple[str, ...]] = {},
    ) -> None:
        def make() -> Admission:
            return Admission(AgentRegistry(entries), alias if aliased else None, scope_actions=scope_actions)

        self.reference, self.batch = make(), BatchAdmission(make(), b"salt", claim_slots)
        self.plain = 0

    def check(self, parcels: Sequence[RawRecord], binding: SourceBinding, now_ms: int = NOW_MS) -> int:
        """Judge twice, as the second time claims are remembered; returns how many records were plain then."""
        wanted = [outcome(lambda p=parcel: self.reference.admit(p, binding, now_ms)) for parcel in parcels]  # type: ignore[misc]
        for _ in range(2):
            judged = self.batch.admit(parcels, binding, now_ms)
            assert [told(one) for one in judged.outcomes] == [told(one) for one in wanted]
        plain = len(parcels) - judged.slow_path_records
        self.plain += plain
        return plain


def test_all_is_judged_one_by_one_until_the_kernel_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(compilation, "is_kept", lambda *kernels: bool(kept))
    both = Both()
    both.batch = BatchAdmission(both.reference, b"salt", 1 << 10, compiled_elsewhere=True)
    parcels = native(*(compact(changed("agent.id", name)) for name in "abc"), b"{")

    assert both.check(parcels, BINDINGS["all"]) == 0
    kept.append(True)
    assert both.check(parcels, BINDINGS["all"]) == 3


def outcome(judge: Callable[[], Record]) -> AdmissionOutcome:
    try:
        return judge()
    except (MalformedEvent, SourceNotAllowed) as error:
        return error


def told(one: AdmissionOutcome) -> object:
    return tuple(one) if isinstance(one, Record) else (type(one), one.path, one.reason)


def native(*raws: bytes) -> list[RawRecord]:
    return [RawRecord(raw) for raw in raws]


@pytest.fixture(scope="module")
def doors() -> list[Both]:
    """With and without a registry and aliases; one of them with a memory that is always full."""
    return [Both(), Both(REGISTRY), Both(aliased=True), Both(REGISTRY, aliased=True, claim_slots=8)]


@pytest.mark.parametrize("name", BINDINGS)
def test_the_simulators_events_are_judged_alike(name: str) -> None:
    made = simulate(
        SimulationSettings(
            start=datetime(2026, 3, 2, 8, tzinfo=UTC), duration=timedelta(days=1), agents=30, events_per_agent_day=60.0
        )
    )
    raws = [row.event for row in islice(made, 1500)]
    both = Both()

    for start in range(0, len(raws), 250):
        both.check(native(*raws[start : start + 250]), BINDINGS[name])

    if name == "all":
        assert both.plain > 0.95 * len(raws)


def test_damaged_records_are_judged_alike(doors: list[Both]) -> None:
    draw = random.Random(11)
    raws = [compact(WHOLE), json.dumps(WHOLE, indent=1).encode(), compact(changed("agent.issuer", None))]
    raws = [raw.replace(b'"acme"', tenant) for raw in raws for tenant in (b'"acme"', '"Zürich"'.encode(), b"null")]
    mutated = [mutate(draw, raws[number % len(raws)], raws) for number in range(4_000)]

    for start in range(0, len(mutated), 250):
        for both in doors:
            both.check(native(*mutated[start : start + 250]), draw.choice(list(BINDINGS.values())))

    assert doors[0].plain > 100  # many are plain all the same: the kernel was really at work


@settings(max_examples=120, deadline=None)
@given(
    st.lists(records(), min_size=2, max_size=6),
    st.sampled_from(sorted(BINDINGS)),
    st.sampled_from([None, "", "urn:as", "urn:zürich", "other"]),
    st.sampled_from([None, "", "acme", "Zürich"]),
    st.booleans(),
)
def test_any_records_are_judged_alike(
    doors: list[Both], made: list[dict[str, Any]], name: str, source: str | None, tenant: str | None, ascii_only: bool
) -> None:
    made = [value | {"source": source, "tenant": tenant} for value in made[:-1]] + made[-1:]
    raws = [json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace") for value in made]
    for both in doors:
        both.check(native(*raws), BINDINGS[name])


def test_what_decides_is_never_mixed_up() -> None:
    paths = ("tenant", "source", "agent.id", "agent.issuer", "agent.type", "agent.capabilities", "principal.id", "id")
    paths += ("agent.self_asserted", "error", "caused_by", "outcome", "type", "vendor")
    values = (..., None, "", "a", "acme", AS, "https://agents.acme.example/7", "Clerk", [], ["read", "zürich", "pay"])
    values += (True, False, *sorted(OWN_ERRORS), "trustwatch", "success", "denied", "error", "approval", "caller:all")
    values += ("caller:one", "urn:trustwatch:approvals")
    raws = [compact(changed(path, value)) for path in paths for value in values]
    parcels = native(*raws, *reversed(raws))
    for both in (Both(), Both(REGISTRY), Both(aliased=True)):
        for binding in (*BINDINGS.values(), *BINDINGS.values()):
            both.check(parcels, binding)
        assert both.plain > 0


def test_lists_and_texts_that_join_to_the_same_are_kept_apart() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]
    raws = [compact(changed("tenant", one) | {"source": other}) for one, other in pairs]
    raws += [compact(changed("agent.capabilities", list(pair))) for pair in pairs]

    Both(REGISTRY).check(native(*raws), BINDINGS["doubted"])


def test_the_limit_of_time_is_exact() -> None:
    limit = datetime.fromtimestamp(NOW_MS / 1000 + MAX_CLOCK_AHEAD_S, UTC)
    moments = [limit + timedelta(microseconds=step) for step in (-1_000_000, -1000, -1, 0, 1, 999, 1000, 1_000_000)]
    both = Both()

    plain = both.check(native(*(compact(changed("time", at.isoformat())) for at in moments)), BINDINGS["all"])

    assert plain == 3


def test_a_trusted_agents_claim_is_remembered_and_plain() -> None:
    both = Both()

    assert both.check(native(compact(WHOLE), compact(changed("id", "other"))), BINDINGS["all"]) == 2
    assert both.check(native(compact(WHOLE), compact(changed("id", ...))), BINDINGS["all"]) == 2
    assert both.check(native(compact(WHOLE), compact(changed("id", "x\\"))), BINDINGS["all"]) == 1  # an escape
    assert both.check(native(compact(WHOLE), compact(WHOLE)), BINDINGS["doubted"]) == 0  # its type is not its to say


def test_scopes_add_capabilities_of_trusted_sources_by_the_table() -> None:
    both = Both(scope_actions={"admin": ("delete_*",)})
    declared = changed("agent.capabilities", ["pay"])
    parcels = native(
        *(compact({**declared, "scopes": {"granted": scopes}}) for scopes in ([], ["admin"], ["delete_x"]))
    )
    both.check(parcels, BINDINGS["all"])
    logged = [
        msgspec.json.decode(one.payload)["agent"] for one in both.batch.admit(parcels, BINDINGS["all"], NOW_MS).outcomes
    ]
    assert [agent["capabilities"] for agent in logged] == [["pay"], ["pay", "delete_*"], ["pay"]]


def test_what_is_not_native_is_judged_where_it_stands() -> None:
    """Paths of CloudEvents lead into their data, and one that cannot be unpacked harms no other."""

    def cloud(data: Any, kind: str = "io.trustwatch.audit.v1") -> RawRecord:
        return structured_record(
            compact({"specversion": "1.0", "id": "1", "source": "urn:as", "type": kind, "data": data})
        )

    parcels = [cloud(WHOLE), cloud(changed("action", 7)), *native(compact(WHOLE)), cloud({}, "other"), cloud(WHOLE)]

    assert Both().check(parcels, BINDINGS["all"]) == 3


@pytest.mark.parametrize("sender", ["itself", "one"])
def test_a_claim_that_was_taken_covers_no_word_on_who_vouches_causes_or_is_named(sender: str) -> None:
    """The first record teaches the memory its claim; the others differ in what decides besides it."""
    taken = changed("agent.id", "a")
    taken |= {"delegation": ["a"], "peer": "a"}
    taken["agent"] |= {"self_asserted": sender == "itself", "type": None, "capabilities": None, "issuer": AS}
    others = [
        {**taken, "agent": {**taken["agent"], "self_asserted": False}},
        *({**taken, "error": error} for error in OWN_ERRORS),
        {**taken, "caused_by": "trustwatch"},
        {**taken, "peer": "b"},
        {**taken, "delegation": ["a", "b"]},
        {**taken, "delegation": None},
        *({**taken, "unauthorized": names} for names in (["a"], ["b"], [])),
    ]
    both = Both()
    source = EventSourceSettings(sender, ("acme",), (AS,), ("*",), ("self",), gateway=sender != "itself")
    binding = SourceBinding(source, own_agent="a", own_issuers=[AS])

    assert both.check(native(compact(taken), compact({**taken, "id": "2"})), binding) == 2
    both.check(native(*(compact({**other, "id": f"o-{at}"}) for at, other in enumerate(others))), binding)


@pytest.mark.parametrize("raw", [b'"vendor":"\xff"', b'"vendor":{"\xc3(":1}', b'"attributes":{"a":"\xed\xa0\x80"}'])
def test_bytes_that_are_no_text_are_refused_in_members_nobody_knows(raw: bytes) -> None:
    """They were taken, and exports were no JSON then; the claim is known from a record that is text."""
    good = compact(WHOLE)
    bad = good.replace(b'{"id":"evt-1"', b'{"id":"evt-2",' + raw, 1)
    assert bad != good
    both = Both()

    both.check(native(good, good), BINDINGS["all"])
    assert both.check(native(good, bad, good), BINDINGS["all"]) == 2
    refused = both.batch.admit(native(good, bad), BINDINGS["all"], NOW_MS).outcomes[1]
    assert isinstance(refused, MalformedEvent)
    assert "utf-8" in refused.reason.lower()
