"""Approvals for one use, over real HTTP: one permit each, whatever asks, and none without the store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from trustwatch.api.access import approval_workflow
from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.policy.access_evaluation import AccessRequest

from ...support.call_history import ISSUER, KNOWN_VALUE, call

HIGH = 3
EVALUATE = "/v1/agents/bot/calls/evaluate"


def ask(site: Any, value: str = KNOWN_VALUE) -> dict[str, Any]:
    answer = site.client.post(EVALUATE, json=call(value), headers=site.auth("gateway"))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def settled(site: Any) -> None:
    site.wait(site.guard.approval_workflow.close())


def approve(site: Any, approval_id: str, status: int = 200, **body: Any) -> dict[str, Any]:
    body = {"why": "this payment", "one_use": True, **body}
    answer = site.client.post(f"/v1/approvals/{approval_id}/approve", json=body, headers=site.auth("gateway"))
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture
def approved(site: Any, summary: Any) -> str:
    """Id of an approval for one use of a call of a risky agent."""
    site.report([summary(level=HIGH, agent_type="Clerk")])
    asked = str(ask(site)["approval_id"])
    settled(site)
    assert approve(site, asked)["status"] == "approved_once"
    site.clock.now += 1  # a request in the same millisecond would be the same one
    return asked


def status_of(site: Any, approval_id: str) -> str:
    return str(site.store.interventions.get(approval_id).status)


def test_one_call_passes_and_the_next_waits_for_a_person_again(site: Any, approved: str) -> None:
    assert ask(site, "e" * 12)["decision"] == "step_up"
    settled(site)
    assert status_of(site, approved) == "approved_once"

    first, second = ask(site), ask(site)

    assert (first["decision"], first["approval_id"]) == ("allow", None)
    assert (second["decision"], second["reason"]) == ("step_up", "step_up_required")
    assert second["approval_id"] not in (None, approved)
    settled(site)
    row = site.store.interventions.get(approved)
    assert (row.status, row.why) == ("used", "this payment") and row.decided_by


def test_of_many_calls_at_once_one_passes(site: Any, approved: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(site)["decision"], range(16)))

    assert sorted(answers) == ["allow"] + ["step_up"] * 15
    settled(site)
    assert status_of(site, approved) == "used"


def test_another_replica_that_spent_it_first_leaves_none(site: Any, approved: str) -> None:
    """This process still believes that the approval is open; the store says that it is not."""
    row = site.store.interventions.get(approved)
    assert site.store.interventions.update(msgspec.structs.replace(row, status="used"), "approved_once")

    assert ask(site)["decision"] == "step_up"
    settled(site)


def test_a_restart_neither_forgets_nor_renews_it(site: Any, approved: str) -> None:
    """What is loaded at a start: the unspent approval gives its one permit, a spent one none."""
    memory = site.guard.approval_workflow.active_interventions

    def restart() -> None:
        site.inside(lambda: [memory.remove_agent(("acme", ISSUER, "bot"))])
        site.wait(site.guard.approval_workflow.load_open())

    restart()
    assert ask(site)["decision"] == "allow"
    restart()
    assert ask(site)["decision"] == "step_up"
    settled(site)


def test_without_the_store_it_gives_no_permit(site: Any, approved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> bool:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(site.store.interventions, "update", away)
        assert ask(site)["decision"] == "step_up"
    settled(site)

    assert site.guard.approval_workflow.unspent_approvals == 1
    assert ask(site)["decision"] == "allow"


def test_a_store_that_hangs_gives_no_permit(site: Any, approved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up may be written later: then the approval is spent."""
    monkeypatch.setattr(approval_workflow, "SPEND_TIMEOUT_S", 0.05)
    update, go, done = site.store.interventions.update, threading.Event(), threading.Event()

    def slow(*given: Any) -> bool:
        go.wait(30)
        written = bool(update(*given))
        done.set()
        return written

    with monkeypatch.context() as patched:
        patched.setattr(site.store.interventions, "update", slow)
        assert ask(site)["decision"] == "step_up"
        go.set()
        assert done.wait(30)
    settled(site)
    assert status_of(site, approved) == "used"
    monkeypatch.undo()
    assert ask(site)["decision"] == "step_up"
    settled(site)


def test_what_a_lasting_approval_lets_pass_spends_none(site: Any, approved: str) -> None:
    other = "e" * 12
    asked = ask(site, other)["approval_id"]
    settled(site)
    assert approve(site, asked, one_use=False)["status"] == "approved"

    assert [ask(site, other)["decision"] for _ in range(2)] == ["allow", "allow"]
    assert status_of(site, approved) == "approved_once"


def test_it_can_be_withdrawn_and_a_path_is_not_trusted_by_it(site: Any, approved: str, summary: Any) -> None:
    headers = site.auth("gateway")
    done = site.client.post(f"/v1/approvals/{approved}/withdraw", json={"why": "no longer"}, headers=headers)
    assert done.json()["status"] == "ended"
    asked = ask(site)
    assert asked["decision"] == "step_up"
    settled(site)
    refused = approve(site, asked["approval_id"], 422, trust_path=True)
    assert "trust_path" in str(refused)


def test_what_cannot_spend_it_is_not_let_pass(site: Any, approved: str) -> None:
    """Deciding without waiting, as introspection does: an approval for one use does not count there."""
    question = AccessRequest("acme", ISSUER, "bot", ("pay:write",))
    asked = site.inside(lambda: site.guard.decide(question, "introspection")).approval_id
    settled(site)
    approve(site, asked)

    assert not site.inside(lambda: site.guard.decide(question, "introspection")).verdict.allow
    settled(site)
    assert status_of(site, asked) == "approved_once"
