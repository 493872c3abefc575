"""What each kind of source may claim: the table of docs/security.md, a test for each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.events.audit_sink import AuditSink
from trustwatch.api.http.auth.callers import AuthenticatedCaller, CallerDirectory, SourceBinding
from trustwatch.api.http.auth.token_verification import TokenClaims
from trustwatch.api.settings.access_settings import (
    CallerSettings,
    ForeignTopicSettings,
    IssuerSettings,
    RegisteredAgent,
)
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.columns import OWN_DENIAL, OWN_ERRORS, ColumnEncoder
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.raw_records import RawRecord

NOW_MS = 1_772_500_000_000
AS, TOKENS = "https://as.example", "https://tokens.example"
DOCS = Path(__file__).parents[3] / "docs"


def event(agent: str = "bot", /, **members: Any) -> dict[str, Any]:
    named = {"id": agent, "issuer": members.pop("issuer", AS), **members.pop("agent", {})}
    right = {"time": "2026-03-02T08:00:00Z", "tenant": "acme", "agent": named, "type": "tool.call", "action": "pay"}
    return {**right, "outcome": "success", **members}


def caller(**settings: Any) -> CallerSettings:
    right: dict[str, Any] = {"client_id": "bot", "tenants": ("acme",), "issuers": (AS,), "sources": ("urn:x:*",)}
    return CallerSettings(**{"name": "source", **right, **settings})


def bound(caller_settings: CallerSettings, *, version: int = 2) -> SourceBinding:
    """The binding of a caller as a service finds it, in a settings file of that version."""
    return resolved(caller_settings, version=version).binding


def resolved(*callers: CallerSettings, version: int = 2, client: str = "bot") -> AuthenticatedCaller:
    issuer = IssuerSettings(issuer=TOKENS, audiences=("trustwatch",), jwks_uri=f"{TOKENS}/jwks")
    settings = Settings(settings_version=version, issuers=(issuer,), callers=callers)
    claims = TokenClaims(issuer=TOKENS, subject=client, client_id=client, scopes=frozenset(), exp=0.0)
    return CallerDirectory(settings.callers, [TOKENS]).resolve(claims)


def logged(binding: SourceBinding, said: dict[str, Any], *registry: RegisteredAgent) -> dict[str, Any]:
    record = Admission(AgentRegistry(registry)).admit(RawRecord(msgspec.json.encode(said)), binding, NOW_MS)
    found: dict[str, Any] = json.loads(record.payload)
    return found


def refused_at(binding: SourceBinding, said: dict[str, Any]) -> str:
    with pytest.raises(SourceNotAllowed) as refused:
        logged(binding, said)
    assert refused.value.reason
    return refused.value.path


def is_hidden(native: dict[str, Any]) -> bool:
    """True if the pipeline takes the event for no behaviour."""
    columns = ColumnEncoder(b"salt").encode([decode_event(msgspec.json.encode(native))])
    return bool(columns.codes[0, OWN_DENIAL])


def marks() -> list[dict[str, Any]]:
    """Every way to say that we caused an event."""
    kinds = [("success", "tool.call"), ("denied", "tool.call"), ("error", "tool.call"), ("success", "approval")]
    said = [{"error": error} for error in sorted(OWN_ERRORS)]
    said += [{"caused_by": "trustwatch", **one} for one in ({}, *said)]
    return [event(outcome=outcome, type=kind, **one) for outcome, kind in kinds for one in said]


def test_a_client_without_an_entry_speaks_for_nobody() -> None:
    """Row: client without a `callers` entry."""
    stranger = resolved(caller(client_id="known"), client="stranger").binding

    assert refused_at(stranger, event("stranger")) == "$.tenant"


def test_an_agent_that_reports_itself() -> None:
    """Row: an agent with `agents: [self]`: itself, self-asserted, of no type, and nothing that we caused."""
    itself = bound(caller(agents=("self",)))

    told = logged(itself, event(agent={"self_asserted": False, "type": "Payer", "capabilities": ["pay"]}))
    assert told["agent"] == {"id": "bot", "issuer": AS, "self_asserted": True}
    for other in ("victim", "bot2", "BOT", "bot ", "self"):
        assert refused_at(itself, event(other)) == "$.agent.id"
    assert refused_at(itself, event(issuer="https://other.example")) == "$.agent.issuer"
    assert not any(is_hidden(logged(itself, said)) for said in marks())


def test_an_agents_own_id_means_something_under_its_own_issuer_alone() -> None:
    """A client of that name at another server is another agent."""
    itself = bound(caller(agents=("self",), issuers=(AS, TOKENS)))

    assert logged(itself, event(issuer=TOKENS))["agent"]["id"] == "bot"
    assert refused_at(itself, event(issuer=AS)) == "$.agent.id"


def test_a_collector_that_is_no_gateway() -> None:
    """Row: `gateway: false`: the agents named, each self-asserted whatever the record says."""
    collector = bound(caller(agents=("worker-*",), gateway=False))

    assert logged(collector, event("worker-1"))["agent"]["self_asserted"] is True
    assert logged(collector, event("worker-1", agent={"self_asserted": False}))["agent"]["self_asserted"] is True
    assert refused_at(collector, event("bot")) == "$.agent.id"
    assert not any(is_hidden(logged(collector, {**said, "agent": {"id": "worker-1"}})) for said in marks())


def test_a_gateway() -> None:
    """Row: a gateway: the agents named, as it says of who vouches for them; no type, and nothing that we caused."""
    gateway = bound(caller(agents=("worker-*", "bot")))

    assert "self_asserted" not in logged(gateway, event("worker-1"))["agent"]
    assert logged(gateway, event(agent={"self_asserted": True}))["agent"]["self_asserted"] is True
    assert "type" not in logged(gateway, event(agent={"type": "Payer"}))["agent"]
    assert refused_at(gateway, event("victim")) == "$.agent.id"
    assert not any(is_hidden(logged(gateway, said)) for said in marks())


def test_a_trusted_gateway() -> None:
    """Row: `trusted: true`: its word on types counts, unless the registry has one; an agent's own never does."""
    trusted = bound(caller(agents=("*",), trusted=True))
    known = RegisteredAgent(tenant="acme", issuer=AS, agent="bot", type="Clerk")

    assert logged(trusted, event(agent={"type": "Payer"}))["agent"]["type"] == "Payer"
    assert logged(trusted, event(agent={"type": "Payer"}), known)["agent"]["type"] == "Clerk"
    with pytest.raises(ValueError, match="`trusted` is for gateways"):
        caller(agents=("self",), trusted=True)


def test_a_gateway_that_enforces() -> None:
    """Row: `enforces: true`: the mark counts, a text does not, and no success is our doing."""
    gateway = bound(caller(agents=("*",), enforces=True))

    for said in marks():
        told = logged(gateway, said)
        counts = "caused_by" in said and (said["outcome"] != "success" or said["type"] == "approval")
        assert is_hidden(told) == counts
        assert ("caused_by" in told) == counts
        if not counts and "error" in said:
            assert told["error"] == f"claimed:{said['error']}"
    with pytest.raises(ValueError, match="`enforces` is for gateways"):
        caller(agents=("self",), enforces=True)


@pytest.mark.parametrize(("name", "marked"), [("envoy", True), ("agentgateway", True), ("otlp", False)])
def test_formats_of_gateways_may_mark_by_themselves(name: str, marked: bool) -> None:
    """Row: `format` of a gateway; what many can write to, as a collector, must be configured for it."""
    assert bound(caller(agents=("*",), format=name)).enforces is marked
    assert bound(caller(agents=("*",), format=name, enforces=not marked)).enforces is not marked
    assert not bound(caller(agents=("self",), format=name)).enforces


def test_a_caller_of_an_older_file_keeps_its_reach() -> None:
    """Row: a settings file of version 1 that names no `agents`: all of them, for this release, with a warning."""
    older, newer = caller(), caller()

    assert "self_asserted" not in logged(bound(older, version=1), event("anybody"))["agent"]
    assert refused_at(bound(newer, version=2), event("anybody")) == "$.agent.id"
    assert not any(is_hidden(logged(bound(older, version=1), said)) for said in marks())


def test_a_topic_is_bound_like_a_caller() -> None:
    """Row: a foreign topic."""
    right: dict[str, Any] = {"topic": "t", "name": "t", "tenants": ("acme",), "issuers": (AS,), "format": "native"}
    plain = SourceBinding(ForeignTopicSettings(**right))
    narrow = SourceBinding(ForeignTopicSettings(**right, agents=("worker-*",), gateway=False))
    gateway = SourceBinding(ForeignTopicSettings(**{**right, "format": "envoy"}))

    assert "self_asserted" not in logged(plain, event())["agent"]
    assert not any(is_hidden(logged(plain, said)) for said in marks())
    assert logged(narrow, event("worker-1"))["agent"]["self_asserted"] is True
    assert refused_at(narrow, event("bot")) == "$.agent.id"
    assert is_hidden(logged(gateway, event(outcome="denied", caused_by="trustwatch")))
    with pytest.raises(ValueError, match="a topic has none"):
        ForeignTopicSettings(**right, agents=("self",))


@pytest.mark.parametrize(
    "source",
    ["urn:trustwatch:approvals", "URN:TrustWatch:authzen", " urn:trustwatch:x", "caller:other", "Caller:other"],
)
def test_no_source_writes_as_trustwatch_or_as_another_caller(source: str) -> None:
    """Row: every caller and topic, whatever globs its `sources` hold."""
    for globs in (("*",), ("urn:*", " *", "URN:*"), ("urn:trustwatch:*", "caller:*", "?aller:*")):
        wide = bound(caller(agents=("*",), sources=globs, enforces=True))
        assert refused_at(wide, event(source=source)) == "$.source"
        assert logged(bound(caller(agents=("*",), sources=("*",))), event(source="caller:source"))


def test_callers_that_name_no_source_do_not_share_ids() -> None:
    """One caller cannot use up the ids of another by sending them first; within one source they are shared."""
    admission = Admission(AgentRegistry(()))

    def identity(name: str, **members: Any) -> int:
        raw = RawRecord(msgspec.json.encode(event(id="evt-1", **members)))
        return admission.admit(raw, bound(caller(name=name, agents=("*",), sources=("*",))), NOW_MS).id_hash

    assert identity("one") == identity("one")
    assert identity("one") != identity("two")
    assert identity("one", source="urn:gw") == identity("two", source="urn:gw")


def test_trustwatch_itself_marks_what_it_did() -> None:
    """Row: Trustwatch itself, whose sources nobody else has."""
    sink = AuditSink(None, Admission(AgentRegistry(())), lambda: NOW_MS, lambda: "id")

    sink.enqueue(event(source="urn:trustwatch:hydra", outcome="denied", error="x", caused_by="trustwatch"))

    assert (len(sink), sink.dropped) == (1, 0)
    assert is_hidden(json.loads(sink._queue[0].payload))


def test_a_record_of_0_1_keeps_its_meaning() -> None:
    """Row: what lies in the log already; there the text is the mark."""
    assert is_hidden(event(outcome="denied", error="ext_authz_denied"))
    assert is_hidden(event(outcome="error", error="trustwatch_unavailable"))
    assert not is_hidden(event(outcome="error", error="claimed:ext_authz_error"))


def test_settings_refuse_an_own_id_in_all_tenants() -> None:
    with pytest.raises(ValueError, match="needs `tenants` by name"):
        caller(agents=("self",), tenants=("*",))


def test_no_value_but_ours_is_a_mark() -> None:
    with pytest.raises(MalformedEvent, match="caused_by"):
        logged(bound(caller()), event(caused_by="somebody"))


def test_each_row_of_the_docs_has_its_test() -> None:
    """The table names the test of each row, and every test that says it is a row's stands there."""
    page = (DOCS / "security.md").read_text()
    text = page.partition("## What a source may claim")[2].partition("\n## ")[0]
    named = {word.strip("`") for line in text.splitlines() for word in line.split() if word.startswith("`test_")}
    rows = {
        name for name, test in globals().items() if name.startswith("test_") and (test.__doc__ or "").startswith("Row:")
    }
    assert rows == named
