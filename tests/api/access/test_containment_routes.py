"""Approvals, pins, blast radius and principals, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from trustwatch.api.service.serve import track_descendants
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.policy.book import PolicyBook, PolicyTable
from trustwatch.scoring.records.agents import AgentEdge, AgentName, AgentRow, RiskLevel
from trustwatch.scoring.records.commits import Commit, Position

AS = "https://as.example"
LOW, HIGH, CRITICAL = 1, 3, 4


def ask(site: Any, *scopes: str, agent_id: str = "bot") -> Any:
    return site.inside(lambda: site.guard.decide(AccessRequest("acme", AS, agent_id, scopes), "test"))


def settled(site: Any) -> None:
    async def wait() -> None:
        await site.guard.approval_workflow.close()
        assert await site.guard.audit_sink.flush(5.0)

    site.wait(wait())


def post(site: Any, path: str, client: str = "gateway", **body: Any) -> Any:
    return site.client.post(path, json=body, headers=site.auth(client))


def test_a_request_that_needs_a_person_asks_one_once(site: Any, summary: Any) -> None:
    """It is refused meanwhile; the same request again finds the same approval, and an alert leaves once."""
    site.report([summary(level=HIGH)])

    first, second = ask(site, "pay:write"), ask(site, "pay:write")
    settled(site)
    third = ask(site, "pay:write")

    (listed,) = site.get("/v1/approvals", status="pending").json()["items"]
    assert not first.verdict.allow
    assert first.approval_id == second.approval_id == third.approval_id == listed["intervention_id"]
    assert (listed["agent_id"], listed["scopes"], listed["asked_by"], listed["level"]) == (
        "bot",
        ["pay:write"],
        "test",
        "high",
    )
    (told,) = [event for event in site.events() if event["type"] == "approval"]
    assert (told["action"], told["error"]) == ("approval.request", "recorded_by_trustwatch")
    assert site.get(f"/v1/approvals/{first.approval_id}").json() == listed


def test_what_a_person_approves_passes_until_it_expires(site: Any, summary: Any) -> None:
    """For those scopes alone, with a short lifetime, and not for another agent."""
    site.report([summary(level=HIGH), summary("other", level=HIGH)])
    asked = ask(site, "pay:write")
    settled(site)

    done = post(site, f"/v1/approvals/{asked.approval_id}/approve", why="planned", valid_s=600)

    assert (done.status_code, done.json()["status"], done.json()["decided_by"]) == (200, "approved", "gateway")
    passed = ask(site, "pay:write").verdict
    assert (passed.allow, passed.max_token_lifetime_s) == (True, 60)
    assert not ask(site, "pay:delete").verdict.allow
    assert not ask(site, "pay:write", agent_id="other").verdict.allow
    site.clock.now += 601
    assert not ask(site, "pay:write").verdict.allow


def test_of_two_persons_the_first_decides(site: Any, summary: Any) -> None:
    site.report([summary(level=HIGH)])
    asked = ask(site, "pay:write").approval_id
    settled(site)

    rejected = post(site, f"/v1/approvals/{asked}/reject", why="nobody knows of it")
    late = post(site, f"/v1/approvals/{asked}/approve", why="fine")
    site.clock.now += 1
    again = ask(site, "pay:write").approval_id

    assert rejected.json()["status"] == "rejected"
    assert (late.status_code, late.json()["code"]) == (409, "not_open")
    assert again not in ("", asked)


def test_a_pin_fixes_what_policy_acts_on_and_hides_nothing(site: Any, summary: Any) -> None:
    """The answer shows the measured risk, the policy of the pinned level, and who said so, until it expires."""
    site.report([summary(level=LOW, risk_score=0.1)])
    before = site.get("/v1/agents/bot/risk").json()

    made = post(site, "/v1/agents/bot/pin", level="critical", why="key leaked", valid_s=600)
    during = site.get("/v1/agents/bot/risk").json()
    denied = ask(site, "x:read").verdict
    site.clock.now += 601
    after = site.get("/v1/agents/bot/risk").json()

    assert made.status_code == 201
    assert (before["pin"], during["risk_level"], during["token_policy"]["revoke"]) == (None, "low", True)
    assert (during["pin"]["by"], during["pin"]["why"]) == ("gateway", "key leaked")
    assert (denied.allow, denied.reason) == (False, "risk_level")
    assert (after["pin"], after["token_policy"]) == (None, before["token_policy"])


def test_the_last_pin_counts_and_ends(site: Any, summary: Any) -> None:
    """A pin may also vouch: an agent at critical passes as low; ending it restores what is measured."""
    site.report([summary(level=CRITICAL)])
    post(site, "/v1/agents/bot/pin", level="high", why="look at it")
    site.clock.now += 1
    post(site, "/v1/agents/bot/pin", level="low", why="false alarm, see CHG-7")

    assert ask(site, "x:read").verdict.allow
    listed = site.get("/v1/interventions", kind="pin", status="active").json()["items"]
    assert [one["level"] for one in listed] == ["low"]

    assert post(site, "/v1/agents/bot/unpin", why="checked").json()["status"] == "ended"
    assert not ask(site, "x:read").verdict.allow
    assert post(site, "/v1/agents/bot/unpin", why="again").status_code == 404


def test_the_log_tells_orders_of_people(site: Any, summary: Any) -> None:
    """Who ordered what of which agent, under the id of the request; never why, which is free text."""
    site.report([summary(level=HIGH)])
    with capture_logs(processors=[merge_contextvars]) as lines:
        asked = ask(site, "pay:write")
        settled(site)
        post(site, f"/v1/approvals/{asked.approval_id}/approve", why="a-secret-reason")
        post(site, "/v1/agents/bot/pin", level="low", why="a-secret-reason")
        post(site, "/v1/agents/bot/unpin", why="a-secret-reason")
        post(site, "/v1/agents/bot/release", note="a-secret-reason")
    orders = [line for line in lines if line["event"] == "order"]

    assert [line["action"] for line in orders] == ["approval.request", "approval.approve", "pin", "pin.end", "release"]
    assert {(line["tenant"], line["issuer"], line["agent_id"]) for line in orders} == {("acme", AS, "bot")}
    assert {line["by"] for line in orders[1:]} == {"gateway"}
    _, approval, pinned, unpinned, release = (line["intervention_id"] for line in orders)
    assert (approval, pinned, release) == (asked.approval_id, unpinned, None)
    assert all(line["request_id"] for line in orders[1:])
    assert "a-secret-reason" not in str(orders)


def test_an_agent_that_was_never_seen_may_be_pinned(site: Any) -> None:
    path = f"/v1/agents/{quote('https://agents.example/new', safe='')}/pin?tenant=acme&issuer={quote(AS)}"

    assert post(site, path, level="critical", why="stolen").status_code == 201

    assert not ask(site, "x", agent_id="https://agents.example/new").verdict.allow


@pytest.mark.parametrize(
    ("client", "path", "body", "status"),
    [
        ("globex", "/v1/agents/bot/pin", {"level": "low", "why": "x"}, 404),
        ("gateway", "/v1/agents/gateway/pin", {"level": "low", "why": "x"}, 403),
        ("gateway", "/v1/agents/bot/pin", {"level": "low"}, 422),
        ("gateway", "/v1/agents/bot/pin", {"level": "unknown", "why": "x"}, 422),
        ("gateway", "/v1/agents/bot/pin", {"level": "low", "why": "x", "valid_s": 1e9}, 422),
        ("gateway", "/v1/approvals/none/approve", {"why": "x"}, 404),
        ("gateway", "/v1/approvals/none/reject", {}, 422),
    ],
)
def test_orders_that_are_refused(
    site: Any, summary: Any, client: str, path: str, body: dict[str, Any], status: int
) -> None:
    site.report([summary(), summary("gateway")])

    assert post(site, path, client, **body).status_code == status
    assert site.get("/v1/interventions").json()["items"] == []


def edges(site: Any, *found: tuple[str, str, str], age_s: float = 60.0, risk: float = 0.0) -> None:
    at_ms = int((site.clock.now - age_s) * 1000)
    place = site.store.partitions.claim(0)
    made = [AgentEdge("acme", AS, kind, source, target, at_ms, at_ms, risk, at_ms) for kind, source, target in found]  # type: ignore[arg-type]
    site.store.commit(Commit(place, Position(0, place.epoch, place.offset + 1), [], [], [], [], edges=made))


def now_ms(site: Any) -> Callable[[], int]:
    return lambda: int(site.clock.now * 1000)


def store_level(site: Any, agent_id: str, level: int) -> None:
    name = AgentName(IdentityHasher().agent_key("acme", AS, agent_id), "acme", AS, agent_id)
    row = AgentRow(
        name, "Payer", level, 0.9, 0.9, 0.9, 1, 1, 1, 0, 9, "", b"[]", "", features=b"", risk=b"", state_version="v"
    )
    place = site.store.partitions.claim(0)
    site.store.commit(Commit(place, Position(0, place.epoch, place.offset + 1), [row], [], [], []))


def test_the_blast_radius_is_whom_an_agent_reached(site: Any, summary: Any) -> None:
    """Over all steps, by delegation before calls, with their own risk, in circles too."""
    site.report([summary(level=CRITICAL), summary("child", level=LOW)])
    edges(
        site,
        ("delegated", "bot", "child"),
        ("delegated", "child", "grandchild"),
        ("called", "bot", "ledger"),
        ("delegated", "grandchild", "bot"),
        ("acts_for", "bot", "ann@acme.example"),
        ("called", "bot", "child"),
        ("delegated", "ledger", "far"),
    )
    edges(site, ("delegated", "bot", "long-ago"), age_s=30 * 86_400)

    found = site.get("/v1/agents/bot/blast-radius").json()
    near = site.get("/v1/agents/bot/blast-radius", depth=1).json()
    old = site.get("/v1/agents/bot/blast-radius", days=60).json()

    assert [(one["agent_id"], one["depth"], one["kind"], one["via"], one["risk_level"]) for one in found["agents"]] == [
        ("child", 1, "delegated", "bot", "low"),
        ("ledger", 1, "called", "bot", None),
        ("far", 2, "called", "ledger", None),
        ("grandchild", 2, "delegated", "child", None),
    ]
    assert [one["principal_id"] for one in found["principals"]] == ["ann@acme.example"]
    assert (found["risk_level"], found["complete"]) == ("critical", True)
    assert {one["agent_id"] for one in near["agents"]} == {"child", "ledger"}
    assert "long-ago" in {one["agent_id"] for one in old["agents"]}


def test_a_principal_is_as_risky_as_who_acts_for_it(site: Any, summary: Any) -> None:
    site.report([summary(level=HIGH, risk_score=0.8), summary("calm", level=LOW, risk_score=0.1)])
    edges(site, ("acts_for", "bot", "ann"), age_s=3600.0, risk=0.8)
    edges(site, ("acts_for", "calm", "ann"), ("called", "calm", "ann"))

    found = site.get("/v1/principals/ann/risk", tenant="acme", issuer=AS).json()

    assert (found["risk_level"], found["risk_score"]) == ("high", 0.8)
    assert [(one["agent_id"], one["pair_risk_score"]) for one in found["agents"]] == [("bot", 0.4), ("calm", 0.0)]
    assert site.get("/v1/principals/bob/risk", tenant="acme", issuer=AS).status_code == 404
    assert site.get("/v1/principals/ann/risk", tenant="globex", issuer=AS).status_code == 403


def test_descendants_of_a_critical_agent_are_treated_as_the_policy_says(site: Any, summary: Any) -> None:
    """Known from stored delegation, whether or not a request tells of it; calls make nobody a descendant."""
    site.report([summary(level=CRITICAL), summary("child", level=LOW), summary("called", level=LOW)])
    edges(site, ("delegated", "bot", "child"), ("delegated", "child", "grandchild"), ("called", "bot", "called"))
    store_level(site, "bot", CRITICAL)
    site.guard.policy_evaluator.policy.book = PolicyBook(
        PolicyTable(version="4"), modes={"acme": "enforce"}, descendants=RiskLevel.CRITICAL
    )
    stop, told = asyncio.Event(), []

    async def one_round() -> None:
        task = asyncio.ensure_future(
            track_descendants(
                site.guard, site.guard.policy_evaluator.policy, site.store, told.extend, stop, now_ms(site)
            )
        )
        await asyncio.sleep(0.3)
        stop.set()
        await task

    site.wait(one_round())

    assert {name.agent_id for name in told} == {"child", "grandchild"}
    assert not ask(site, "x", agent_id="child").verdict.allow
    assert not ask(site, "x", agent_id="grandchild").verdict.allow
    assert ask(site, "x", agent_id="called").verdict.allow
    answer = site.get("/v1/agents/child/risk").json()
    assert (answer["risk_level"], answer["critical_ancestor"], answer["token_policy"]["allow"]) == ("low", "bot", False)


def test_a_chain_that_a_request_tells_of_counts_at_once(site: Any, summary: Any) -> None:
    """Where the policy minds; by default nested actors inform and no more."""
    site.report([summary(level=CRITICAL)])
    question = AccessRequest("acme", AS, "child", ("x",), ancestors=("planner", "bot"))

    by_default = site.inside(lambda: site.guard.decide(question, "test")).verdict
    site.guard.policy_evaluator.policy.book = PolicyBook(modes={"acme": "enforce"}, descendants=RiskLevel.HIGH)
    minded = site.inside(lambda: site.guard.decide(question, "test"))

    assert by_default.allow
    assert (minded.verdict.level, minded.context.ancestor, minded.verdict.allow) == (RiskLevel.HIGH, "bot", False)


def test_an_approval_at_medium_is_none_at_high(site: Any, summary: Any) -> None:
    site.report([summary(level=2)])
    asked = ask(site, "pay:write", "pay:read")
    settled(site)
    post(site, f"/v1/approvals/{asked.approval_id}/approve", why="planned")
    assert ask(site, "pay:write").verdict.allow

    site.report([summary(level=HIGH)])
    assert not ask(site, "pay:write").verdict.allow


def test_a_request_that_passes_asks_nobody(site: Any, summary: Any) -> None:
    """At medium, one that names no scope gets what its client is registered for; no approval of everything is made."""
    site.report([summary(level=2)])

    passed = ask(site)
    settled(site)

    assert (passed.verdict.allow, passed.approval_id) == (True, "")
    assert site.get("/v1/approvals").json()["items"] == []


def test_an_agent_can_not_flood_those_who_approve(site: Any, summary: Any) -> None:
    site.report([summary(level=HIGH)])

    for number in range(20):
        ask(site, f"scope-{number}")
        settled(site)
    everything = ask(site, "*")

    assert len(site.get("/v1/approvals", status="pending").json()["items"]) == 5
    assert (everything.verdict.allow, everything.approval_id) == (False, "")


def test_what_another_replica_ended_is_ended_whatever_its_clock(site: Any, summary: Any) -> None:
    site.report([summary(level=LOW)])
    post(site, "/v1/agents/bot/pin", level="critical", why="look at it")
    (pin,) = site.store.interventions.list_open()
    behind = msgspec.structs.replace(pin, status="ended", updated_ms=pin.updated_ms - 2_000)
    site.store.interventions.update(behind, "active")

    site.wait(site.guard.approval_workflow.synchronise())

    assert ask(site, "x").verdict.allow


def test_two_pins_of_two_replicas_both_end(site: Any, summary: Any) -> None:
    site.report([summary(level=LOW)])
    post(site, "/v1/agents/bot/pin", level="low", why="fine")
    (pin,) = site.store.interventions.list_open()
    other = msgspec.structs.replace(pin, intervention_id="I-other", level=4, asked_ms=pin.asked_ms + 5)
    site.store.interventions.add(other)
    site.wait(site.guard.approval_workflow.synchronise())
    assert not ask(site, "x").verdict.allow

    post(site, "/v1/agents/bot/unpin", why="over")

    assert site.store.interventions.list_open() == []


def test_an_agent_decides_about_itself_by_no_client_of_its_own(new_site: Any, summary: Any) -> None:
    actuator = ActuatorSettings(
        name="as", kind="hydra", url="https://as.example", issuers=(AS,), clients={"bot": "gateway"}
    )
    site = new_site(actuators=(actuator,))
    site.report([summary()])

    assert post(site, "/v1/agents/bot/pin", level="low", why="x").json()["code"] == "own_decision"
    assert post(site, "/v1/agents/bot/release", note="x").json()["code"] == "own_decision"
