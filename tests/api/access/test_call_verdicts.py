"""Verdicts on calls over real HTTP: level and model, approvals of one call, shadow mode, and what is not readable."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from trustwatch.api.access import approval_workflow
from trustwatch.api.access.approval_workflow import CALL_SCOPE_PREFIX, MAX_PENDING_PER_AGENT
from trustwatch.api.access.call_evaluation import CallQuestion, LiveCallScorer
from trustwatch.ingest import compilation
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.model_persistence import LEARNING_VERSION, ModelRegistry, save_learning_model, save_trained_model
from trustwatch.scoring.engine.announced_paths import CREDENTIAL, KIND_OF_PLACE, PATHS, VERSION, part_names
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.policy.book import PolicyBook, PolicyTable

from ...support.call_history import CALL_SETTINGS, ISSUER, KNOWN_VALUE, NEW_VALUE, SALT, agent_key, call, call_model

NOW_MS = 1_764_000_000_000
LOW, MEDIUM, HIGH, CRITICAL = 1, 2, 3, 4
EVALUATE = "/v1/agents/bot/calls/evaluate"
OF_AGENT_1 = EVALUATE.replace("bot", "agent-1")


@pytest.fixture
def judged(site: Any) -> Iterator[Any]:
    site.calls.scorer = CallScorer(call_model(NOW_MS), {})
    yield site
    site.calls.scorer = None


def ask(site: Any, caller: str = "gateway", status: int = 200, path: str = EVALUATE, **question: Any) -> dict[str, Any]:
    answer = site.client.post(path, json=question, headers=site.auth(caller))
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def settled(site: Any) -> None:
    site.wait(site.guard.approval_workflow.close())


def test_an_odd_call_waits_for_a_person_and_an_ordinary_one_does_not(judged: Any, summary: Any) -> None:
    judged.report([summary(level=LOW, agent_type="Clerk")])

    odd, ordinary = ask(judged, **call(NEW_VALUE)), ask(judged, **call(KNOWN_VALUE))

    assert (odd["decision"], odd["allow"], odd["would_allow"], odd["reason"]) == (
        "step_up",
        False,
        False,
        "unusual_call",
    )
    assert odd["reasons"][0]["code"] == "argument_origin" and odd["approval_id"]
    assert odd["p_value"] <= 0.01 < ordinary["p_value"]
    assert odd["threshold"]["calls_per_1000"] == 10.0 and odd["basis"] == "model"
    assert (ordinary["decision"], ordinary["allow"], ordinary["reason"]) == ("allow", True, "allowed")
    assert ordinary["approval_id"] is None and ordinary["reasons"] == []


def test_a_yes_holds_for_the_very_call_until_it_expires(judged: Any, summary: Any) -> None:
    """Another argument, target or task is another call; another odd call finds an approval of its own."""
    judged.report([summary(level=LOW, agent_type="Clerk")])
    asked = ask(judged, **call(NEW_VALUE))
    settled(judged)

    body = {"why": "the customer moved", "valid_s": 600}
    answer = judged.client.post(
        f"/v1/approvals/{asked['approval_id']}/approve", json=body, headers=judged.auth("gateway")
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["scopes"] == [f"call:{asked['call']}"]
    assert ask(judged, **call(NEW_VALUE))["decision"] == "allow"
    for other in (
        call("e" * 12),
        call(NEW_VALUE, resource={"target": "host-9"}),
        call(NEW_VALUE, task="other"),
        call(NEW_VALUE, type="api.call"),
        call(NEW_VALUE, principal={"id": "bob"}),
        call(NEW_VALUE, arguments_hash="e" * 36),
    ):
        refused = ask(judged, **other)
        assert refused["decision"] == "step_up"
        assert refused["call"] != asked["call"]
    assert ask(judged, **call("e" * 12))["decision"] == "step_up"
    assert ask(judged, **call("e" * 12))["approval_id"] not in (None, asked["approval_id"])
    judged.clock.now += 601
    assert ask(judged, **call(NEW_VALUE))["decision"] == "step_up"
    settled(judged)


def from_key(agent: int | str, asn: int = 64496) -> dict[str, Any]:
    return {"credential": agent_key(agent), "client": {"asn": asn}}


NEW_KEY = from_key("nobody")


@pytest.fixture
def keyed(judged: Any, summary: Any) -> Any:
    """The service with a model of agents that have keys; agent 1 is calm."""
    judged.calls.scorer = CallScorer(call_model(NOW_MS, keys=True), {})
    judged.report([summary("agent-1", level=LOW, agent_type="Clerk")])
    return judged


def approve(site: Any, approval_id: str, status: int = 200, **body: Any) -> dict[str, Any]:
    path = f"/v1/approvals/{approval_id}/approve"
    answer = site.client.post(path, json={"why": "the key was changed", **body}, headers=site.auth("gateway"))
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_person_who_trusts_a_new_key_is_not_asked_about_each_of_its_calls(keyed: Any) -> None:
    """Its other calls pass, another key and network do not, and what is odd without the key waits as before."""
    assert ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **from_key(1)))["decision"] == "allow"
    asked = ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **NEW_KEY))
    assert (asked["decision"], asked["reason"]) == ("step_up", "unusual_call")
    assert asked["reasons"][0]["code"] == "first_seen_credential"
    settled(keyed)

    told = approve(keyed, asked["approval_id"], trust_path=True)

    of_call, of_key = told["scopes"]
    assert of_call == "call:" + asked["call"] and of_key.startswith("path:")
    assert ask(keyed, path=OF_AGENT_1, **call(f"{2:012x}", **NEW_KEY))["decision"] == "allow"
    assert ask(keyed, path=OF_AGENT_1, **call(NEW_VALUE, **NEW_KEY))["reasons"][0]["code"] == "argument_origin"
    for other in (from_key("other"), from_key("nobody", 64501)):
        assert ask(keyed, path=OF_AGENT_1, **call(f"{3:012x}", **other))["decision"] == "step_up"
    settled(keyed)
    keyed.clock.now += 3601
    assert ask(keyed, path=OF_AGENT_1, **call(f"{2:012x}", **NEW_KEY))["decision"] == "step_up"
    settled(keyed)


def announced(site: Any, agent_id: str, **path: Any) -> bytes:
    """A key as it is published once the agent's authorization server has announced it."""
    event = {"time": "2025-11-24T00:00:00Z", "type": "client.change", "action": "client.change", "outcome": "success"}
    who = {"tenant": "acme", "agent": {"id": agent_id, "issuer": ISSUER}}
    columns = ColumnEncoder(SALT).encode([decode_event(msgspec.json.encode({**event, **who, **path}))])
    kept = np.zeros(1, PATHS)
    kept["version"], kept["since_min"] = VERSION, int(site.clock.now // 60)
    kept["names"][0, list(KIND_OF_PLACE).index(CREDENTIAL)] = part_names(columns.names)[0, CREDENTIAL]
    return kept.tobytes()


def test_a_key_that_was_announced_is_not_asked_about(keyed: Any, summary: Any) -> None:
    """A thief's network with it still waits, and so do other agents with it, and what is odd without it."""
    paths = announced(keyed, "agent-1", credential=agent_key("nobody"))
    known = {"agent_type": "Clerk", "announced_paths": paths}
    keyed.report([summary("agent-1", level=LOW, **known), summary("agent-2", level=LOW, **known)])

    assert ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **NEW_KEY))["decision"] == "allow"
    of_thief = ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **from_key("nobody", 64501)))
    assert (of_thief["decision"], of_thief["reasons"][0]["code"]) == ("step_up", "first_seen_network")
    assert ask(keyed, path=OF_AGENT_1, **call(NEW_VALUE, **NEW_KEY))["reasons"][0]["code"] == "argument_origin"
    of_other = ask(keyed, path=EVALUATE.replace("bot", "agent-2"), **call(KNOWN_VALUE, **NEW_KEY))
    assert of_other["decision"] == "step_up"
    settled(keyed)


def test_an_announced_key_counts_neither_at_medium_nor_where_risk_is_stale(keyed: Any, summary: Any) -> None:
    known = {"agent_type": "Clerk", "announced_paths": announced(keyed, "agent-1", credential=agent_key("nobody"))}
    read = {"action": "read_mail", "effect": "read", "task": "desk", **NEW_KEY}
    keyed.report([summary("agent-1", level=LOW, **known)])
    calm = ask(keyed, path=OF_AGENT_1, **read)["anomaly_score"]
    keyed.report([summary("agent-1", level=MEDIUM, **known)])
    assert ask(keyed, path=OF_AGENT_1, **read)["anomaly_score"] > calm
    keyed.report([summary("agent-1", level=LOW, **known)])
    assert ask(keyed, path=OF_AGENT_1, **read)["anomaly_score"] == calm
    keyed.clock.now += 10_000
    late = ask(keyed, path=OF_AGENT_1, **read)
    assert late["stale"] and late["anomaly_score"] > calm
    settled(keyed)


def test_the_same_call_by_another_path_is_another_question(keyed: Any) -> None:
    """A thief who asks first must not have its path trusted by a person who expects the agent's new key."""
    of_thief = ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **from_key("thief", 64501)))
    of_agent = ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **NEW_KEY))
    settled(keyed)

    assert of_thief["call"] == of_agent["call"] and of_thief["approval_id"] != of_agent["approval_id"]
    words = {one.intervention_id: one.asked_why for one in keyed.store.interventions.list_open()}
    assert "AS64501, private_key_jwt key-of-thief" in words[of_thief["approval_id"]]
    assert "AS64496, private_key_jwt key-of-nobod…" in words[of_agent["approval_id"]]
    approve(keyed, of_agent["approval_id"], trust_path=True)
    assert ask(keyed, path=OF_AGENT_1, **call(f"{2:012x}", **NEW_KEY))["decision"] == "allow"
    other = ask(keyed, path=OF_AGENT_1, **call(f"{2:012x}", **from_key("thief", 64501)))
    assert other["decision"] == "step_up"
    settled(keyed)


@pytest.mark.parametrize("told", [{"client": {"user_agent": "curl"}}, {"delegation": []}, {}])
def test_a_call_that_tells_no_path_offers_none(keyed: Any, told: dict[str, Any]) -> None:
    asked = ask(keyed, path=OF_AGENT_1, **call(NEW_VALUE, **told))
    settled(keyed)

    stored = keyed.store.interventions.get(asked["approval_id"])
    assert stored.scopes == ("call:" + asked["call"],)


def test_a_yes_to_a_call_trusts_no_key_unless_the_person_says_so(keyed: Any) -> None:
    asked = ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **NEW_KEY))
    settled(keyed)

    assert approve(keyed, asked["approval_id"])["scopes"] == ["call:" + asked["call"]]
    assert ask(keyed, path=OF_AGENT_1, **call(KNOWN_VALUE, **NEW_KEY))["decision"] == "allow"
    assert ask(keyed, path=OF_AGENT_1, **call(f"{2:012x}", **NEW_KEY))["decision"] == "step_up"
    settled(keyed)


def test_a_call_that_is_odd_by_itself_offers_no_key_to_trust(keyed: Any) -> None:
    """Who takes over an agent must not get its key trusted along with a call that is odd anyway."""
    asked = ask(keyed, path=OF_AGENT_1, **call(NEW_VALUE, **NEW_KEY))
    settled(keyed)

    told = approve(keyed, asked["approval_id"], status=422, trust_path=True)

    assert "trust_path" in told["detail"]
    (pending,) = keyed.store.interventions.list_open()
    assert pending.scopes == ("call:" + asked["call"],) and pending.status == "pending"


def unkeyed_scope(**question: Any) -> str:
    """Scope of an approval of a call as it was stored before digests were keyed."""
    asked = msgspec.convert(question, CallQuestion)
    return CALL_SCOPE_PREFIX + hashlib.sha256(asked.bound_members()).hexdigest()[:32]


def test_the_digest_of_a_call_tells_nobody_what_it_said(judged: Any, summary: Any) -> None:
    """All that it is made of can be guessed, so it is keyed: neither answer nor store hold one that can be tried."""
    judged.report([summary(level=LOW, agent_type="Clerk")])
    asked = ask(judged, **call(NEW_VALUE))
    settled(judged)

    stored = judged.store.interventions.list_open()
    assert [one.scopes for one in stored] == [(CALL_SCOPE_PREFIX + asked["call"],)]
    assert unkeyed_scope(**call(NEW_VALUE)) != CALL_SCOPE_PREFIX + asked["call"]
    other_key = IdentityHasher(b"k" * 32).call_digest(
        "acme", ISSUER, "bot", msgspec.convert(call(NEW_VALUE), CallQuestion).bound_members()
    )
    assert asked["call"] != other_key


def test_a_yes_of_before_digests_were_keyed_still_holds(judged: Any, summary: Any) -> None:
    judged.report([summary(level=LOW, agent_type="Clerk")])
    asked = ask(judged, **call(NEW_VALUE))
    settled(judged)
    (pending,) = judged.store.interventions.list_open()
    now_ms = int(judged.clock() * 1000)
    given = msgspec.structs.replace(
        pending,
        intervention_id="01OLD",
        status="approved",
        scopes=(unkeyed_scope(**call(NEW_VALUE)),),
        expires_ms=now_ms + 60_000,
    )
    judged.store.interventions.add(given, [])
    judged.wait(judged.guard.approval_workflow.load_open())

    assert asked["decision"] == "step_up"
    assert ask(judged, **call(NEW_VALUE))["decision"] == "allow"
    assert ask(judged, **call("e" * 12))["decision"] == "step_up"
    settled(judged)


def test_a_scope_of_a_token_approves_no_call(judged: Any, summary: Any) -> None:
    """Whoever asks for a token with the scope of a call would have it approved by a person who was told of no call."""
    judged.report([summary(level=LOW, agent_type="Clerk")])
    scope = CALL_SCOPE_PREFIX + ask(judged, **call(NEW_VALUE))["call"]
    of_key = f"path:{'a' * 32}"
    settled(judged)
    judged.report([summary(level=HIGH, agent_type="Clerk")])

    for scopes in ((scope,), (of_key,), (scope, of_key, "pay:write")):
        question = AccessRequest("acme", ISSUER, "bot", scopes)
        judged.inside(lambda question=question: judged.guard.decide(question, "hydra"))
    settled(judged)

    asked = [(one.asked_by, one.scopes) for one in judged.store.interventions.list_open()]
    assert sorted(asked) == [("calls", (scope,)), ("hydra", ("pay:write",))]


def test_one_caller_may_have_so_many_persons_asked(site: Any, summary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all its agents; those that were decided about make room, and other callers are not held up."""
    monkeypatch.setattr(approval_workflow, "MIN_PENDING_PER_TENANT", 1)
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_CALLER", 14)
    site.report([summary(f"bot-{number}", level=HIGH, agent_type="Clerk") for number in range(5)])

    paths = [f"/v1/agents/bot-{number}/calls/evaluate" for number in range(5)]
    ids = [ask(site, path=path, **call(KNOWN_VALUE))["approval_id"] for path in paths]
    settled(site)
    failed = site.guard.approval_workflow.failed_requests
    assert [bool(one) for one in ids] == [True] * 3 + [False] * 2

    assert ask(site, "trusted", path=paths[3], **call(KNOWN_VALUE))["approval_id"]
    rejected = site.client.post(f"/v1/approvals/{ids[0]}/reject", json={"why": "no"}, headers=site.auth("two"))
    assert rejected.status_code == 200, rejected.text
    assert ask(site, path=paths[4], **call(KNOWN_VALUE))["approval_id"]
    assert site.guard.approval_workflow.failed_requests == failed
    settled(site)


def have_asked(site: Any, summary: Any, tenant: str, numbers: range, caller: str = "gateway") -> list[bool]:
    """Have persons asked about agents of a tenant; whether they are."""
    workflow, agents = site.guard.approval_workflow, [summary(f"bot-{n}", tenant=tenant).name for n in numbers]

    async def request() -> list[bool]:
        return [bool(workflow.request_approval(one, ("pay",), HIGH, "odd", "calls", caller)) for one in agents]

    asked: list[bool] = site.wait(request())
    settled(site)
    return asked


def test_no_tenants_use_up_the_approvals_of_another(site: Any, summary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a gateway that many share, as many as ask for all that they get leave a share for whoever comes then."""
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_CALLER", 100)
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_TENANT", 20)
    monkeypatch.setattr(approval_workflow, "MIN_PENDING_PER_TENANT", 2)
    failed = site.guard.approval_workflow.failed_requests
    waiting = dict.fromkeys((f"greedy-{number}" for number in range(8)), 0)
    for start in range(0, 24, 3):
        for tenant in waiting:
            waiting[tenant] += sum(have_asked(site, summary, tenant, range(start, start + 3)))
    assert waiting["greedy-0"] >= waiting["greedy-7"] >= 7
    assert sum(waiting.values()) < 80
    assert site.guard.approval_workflow.failed_requests == failed + 8 * 24 - sum(waiting.values())
    assert sum(have_asked(site, summary, "quiet", range(20))) >= 4

    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_CALLER", 60)  # as if all were used up
    assert have_asked(site, summary, "late", range(3)) == [True, True, False]


def test_a_tenants_approvals_are_bounded_over_all_ways(
    site: Any, summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that other processes asked for, or this one before a restart; what is decided makes room."""
    monkeypatch.setattr(approval_workflow, "MAX_WAITING_OF_TENANT", 3)
    with capture_logs() as lines:
        assert have_asked(site, summary, "acme", range(2), "one") == [True, True]
        assert have_asked(site, summary, "acme", range(2, 4), "two") == [True, False]
        assert have_asked(site, summary, "acme", range(4, 7), "") == [False] * 3
    assert have_asked(site, summary, "globex", range(1), "two") == [True]
    (line,) = [line for line in lines if line.get("code") == "approval_not_asked"]  # one of that second
    assert (line["by"], line["tenant"]) == ("two", "acme")
    assert line["reason"] == "too many approvals are pending in the tenant"

    workflow = site.guard.approval_workflow
    waiting = site.store.interventions.page(("acme",)).items
    site.inside(lambda: workflow.active_interventions.remove_agent(waiting[0].agent.identity))
    assert have_asked(site, summary, "acme", range(4, 6), "two") == [True, False]


def approvals_of(site: Any) -> list[str]:
    settled(site)
    answer = site.client.get("/v1/approvals", params={"status": "pending"}, headers=site.auth("all"))
    return [one["agent_id"] for one in answer.json()["items"]]


def test_nobody_asks_persons_in_the_name_of_an_agent_that_is_not_its_own(site: Any, summary: Any) -> None:
    """A neighbour's questions would use up the approvals of an agent, with words of the neighbour."""
    site.report([summary(level=HIGH, agent_type="Clerk"), summary("itself", level=HIGH, agent_type="Clerk")])

    for number in range(6):
        asked = ask(site, "itself", **call(KNOWN_VALUE, action=f"please-approve-{number}"))
        assert (asked["decision"], asked["approval_id"]) == ("step_up", None)
    assert approvals_of(site) == []

    assert ask(site, "itself", path="/v1/agents/itself/calls/evaluate", **call(KNOWN_VALUE))["approval_id"]
    assert ask(site, **call(KNOWN_VALUE))["approval_id"]
    assert sorted(approvals_of(site)) == ["bot", "itself"]


def test_as_many_may_wait_as_are_said_however_fast_they_come(
    site: Any, summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, add = threading.Event(), site.store.interventions.add
    monkeypatch.setattr(site.store.interventions, "add", lambda *given: held.wait(20) and add(*given))
    site.report([summary(level=HIGH, agent_type="Clerk")])

    ids = [ask(site, **call(KNOWN_VALUE, action=f"send-{number}"))["approval_id"] for number in range(9)]
    held.set()

    assert [bool(one) for one in ids] == [True] * MAX_PENDING_PER_AGENT + [False] * 4
    assert approvals_of(site) == ["bot"] * MAX_PENDING_PER_AGENT


def test_the_level_decides_first(judged: Any, summary: Any) -> None:
    judged.report([summary(level=CRITICAL, agent_type="Clerk")])
    denied = ask(judged, **call(KNOWN_VALUE))
    assert (denied["decision"], denied["reason"], denied["basis"]) == ("deny", "risk_level", "level")
    assert denied["approval_id"] is None

    judged.report([summary(level=HIGH, agent_type="Clerk")])
    assert ask(judged, **call(KNOWN_VALUE, effect="read"))["reason"] == "step_up_required"
    judged.report([summary(level=MEDIUM, agent_type="Clerk")])
    assert ask(judged, **call(KNOWN_VALUE))["decision"] == "step_up"
    reading = ask(judged, **call(None, action="read_mail", effect="read", resource=None))
    assert reading["basis"] == "model" and reading["reason"] != "step_up_required"
    settled(judged)


def test_without_a_model_the_level_decides_alone_and_says_so(site: Any, summary: Any) -> None:
    site.report([summary(level=LOW, agent_type="Clerk")])

    answer = ask(site, **call(NEW_VALUE))

    assert (answer["decision"], answer["basis"], answer["p_value"]) == ("allow", "level", None)
    assert answer["basis_detail"] == "the model is not loaded yet"
    assert 'trustwatch_call_verdicts_total{basis="level",decision="allow",effect="write",via="calls"}' in (
        site.client.get("/metrics", headers=site.auth("all")).text
    )


def test_a_fault_of_the_scorer_leaves_the_level(judged: Any, summary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("broken")

    judged.report([summary(level=LOW, agent_type="Clerk")])
    monkeypatch.setattr(judged.calls.scorer, "score", fail)

    answer = ask(judged, **call(NEW_VALUE))

    assert (answer["decision"], answer["basis"]) == ("allow", "level")
    assert "internal error" in answer["basis_detail"]


def test_answers_need_neither_database_nor_pipeline(judged: Any, summary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be asked meanwhile, which is counted; the answer says that what is known may be out of date."""

    def away(*_: Any) -> bool:
        raise Unavailable("the database is away")

    judged.report([summary(level=LOW, agent_type="Clerk")])
    monkeypatch.setattr(judged.store.interventions, "add", away)
    monkeypatch.setattr(judged.store.models, "list_switches", away)
    before = judged.guard.approval_workflow.failed_requests
    judged.clock.now += 10_000

    answer = ask(judged, **call(NEW_VALUE))

    assert (answer["decision"], answer["stale"], answer["basis"]) == ("step_up", True, "model")
    settled(judged)
    assert judged.guard.approval_workflow.failed_requests == before + 1


def test_shadow_mode_allows_and_says_what_it_would_have_done(judged: Any, summary: Any) -> None:
    judged.report([summary(level=LOW, agent_type="Clerk")])
    book = judged.guard.policy_evaluator.policy
    enforced, book.book = book.book, PolicyBook(PolicyTable(version="3"))
    try:
        answer = ask(judged, **call(NEW_VALUE))
    finally:
        book.book = enforced

    assert (answer["allow"], answer["would_allow"], answer["decision"]) == (True, False, "step_up")
    assert answer["mode"] == "shadow" and answer["approval_id"] is None


def test_an_agent_that_was_never_seen_is_asked_about_under_the_callers_binding(judged: Any) -> None:
    answer = ask(judged, path="/v1/agents/nobody/calls/evaluate", agent_type="Clerk", **call(NEW_VALUE))

    assert (answer["tenant"], answer["issuer"], answer["risk_level"]) == ("acme", ISSUER, "unknown")
    assert answer["decision"] == "step_up"
    settled(judged)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"action": ""},
        {"action": "send", "effect": "destroy"},
        {"action": "send", "arguments": [{"name": "to"}]},
        {"action": "send", "arguments": [{"name": "to", "origin": "prompt"}]},  # any value would be approved
    ],
)
def test_a_body_that_is_no_question_is_refused(site: Any, question: dict[str, Any]) -> None:
    assert ask(site, status=422, **question)["errors"][0]["path"].startswith("$")


def test_other_tenants_and_other_methods_are_refused(site: Any) -> None:
    assert ask(site, status=403, path=EVALUATE + "?tenant=globex", **call())["code"] == "tenant_not_allowed"
    assert site.client.get(EVALUATE, headers=site.auth("gateway")).status_code == 405
    assert site.client.post(EVALUATE, json=call()).status_code == 401


def test_the_model_in_force_is_followed(tmp_path: Path) -> None:
    """One that cannot be had, or was trained before there were verdicts on calls, leaves the level."""
    live = LiveCallScorer(ModelRegistry(tmp_path / "models", tmp_path / "installed"), {})
    live.use_version("calls")
    assert live.scorer is None and "is not at" in live.missing_because

    save_trained_model(tmp_path / "installed", call_model(NOW_MS), CALL_SETTINGS, 1, 0)
    live.use_version("calls")
    assert live.scorer is not None and live.missing_because == ""

    live.use_version("another")
    assert live.scorer is None and live.missing_because


def test_a_service_that_learns_is_not_told_to_train(tmp_path: Path) -> None:
    save_learning_model(tmp_path / "installed", NOW_MS)
    live = LiveCallScorer(ModelRegistry(tmp_path / "models", tmp_path / "installed"), {})
    live.use_version(LEARNING_VERSION)

    assert live.scorer is None and "a new service trains its first model automatically" in live.missing_because


def test_a_model_is_used_once_its_kernels_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process: until then calls are judged by the level, and this process compiles nothing."""
    kept: list[object] = []
    monkeypatch.setattr(compilation, "is_kept", lambda *kernels: bool(kept))
    save_trained_model(tmp_path / "installed", call_model(NOW_MS), CALL_SETTINGS, 1, 0)
    registry = ModelRegistry(tmp_path / "models", tmp_path / "installed")
    live = LiveCallScorer(registry, {}, compiled_elsewhere=True)

    live.use_version("calls")
    assert live.scorer is None and live.missing_because == "its kernels are being compiled"
    kept.append(True)
    live.use_version("calls")
    assert live.scorer is not None and live.missing_because == ""
