"""Pages and forms of decisions, alerts, approvals and dead letters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.outbox_store import DeliveryRoute

AS = "https://as.example"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
NOW_MS = 1_764_000_000_000
DAY_MS = 86_400_000


def name_of(agent_id: str, tenant: str = "acme") -> AgentName:
    return AgentName(IdentityHasher().agent_key(tenant, AS, agent_id), tenant, AS, agent_id)


def asked(number: int, agent_id: str = "bot", tenant: str = "acme", **changed: Any) -> Intervention:
    made = Intervention(
        f"i-{number}",
        "approval",
        "pending",
        name_of(agent_id, tenant),
        int(RiskLevel.HIGH),
        ("payments:write",),
        "step_up_required",
        "authzen",
        NOW_MS,
        "",
        0,
        "",
        NOW_MS + DAY_MS,
        NOW_MS + number,
    )
    return msgspec.structs.replace(made, **changed)


def waits(site: Any, *made: Intervention) -> None:
    for one in made:
        assert site.store.interventions.add(one)


def refused(site: Any, *letters: DeadLetter) -> None:
    before = site.position
    after = msgspec.structs.replace(before, offset=before.offset + 1)
    site.store.commit(Commit(before, after, [], [], [], list(letters)))
    site.position = Position(0, before.epoch, after.offset)


def letter(number: int, source: str = "gateway", raw: bytes = b"{", reason: str = "not JSON") -> DeadLetter:
    return DeadLetter(f"l-{number}", NOW_MS + number, source, reason, "$", raw, 0, number)


def told(site: Any, row: Any, decision: Any, *targets: str) -> None:
    payload = build_alert_row(decision, {"allow": True}, "https://trust.example").payload
    site.store.outbox.enqueue(
        [OutboxRow(f"alert-{decision.decision_id}", "alert", "", payload, NOW_MS, row.name.key, "r", row.level, "acme")]
    )
    routes = [DeliveryRoute(target, "alert", frozenset(range(5)), 0) for target in targets]
    site.store.outbox.route(routes, NOW_MS)


def test_hostile_names_and_reasons_are_text_everywhere(site: Any, make_row: Any, make_decision: Any) -> None:
    row = make_row(HOSTILE, level=3, decision_id="d-700", agent_type=HOSTILE)
    decision = make_decision(row, 700)
    reason = msgspec.structs.replace(decision.reasons[0], text=HOSTILE, observed=HOSTILE, code=HOSTILE, feature=HOSTILE)
    decision = msgspec.structs.replace(decision, reasons=(reason,), feature_vector={HOSTILE: 1.0}, event_id=HOSTILE)
    site.know(row, decisions=(decision,))
    told(site, row, decision, "soc")
    waits(site, asked(700, HOSTILE, scopes=(HOSTILE,), asked_why=HOSTILE))
    refused(site, letter(700, HOSTILE, HOSTILE.encode(), HOSTILE))
    site.sign_in("trust-admins")
    paths = (
        "/console/decisions",
        "/console/decisions/d-700",
        "/console/alerts",
        "/console/approvals",
        "/console/dead-letters",
        "/console/dead-letters/l-700",
    )

    for path in paths:
        page = site.browser.get(path)
        assert page.status_code == 200, page.text
        assert "<script>alert" not in page.text and "<img" not in page.text, path
        assert "&lt;script&gt;alert(1)" in page.text, path


def test_a_decision_of_another_tenant_does_not_exist(site: Any, make_row: Any, make_decision: Any) -> None:
    row = make_row("theirs", tenant="globex", level=3, decision_id="d-701")
    site.know(row, decisions=(make_decision(row, 701),))
    site.sign_in("soc")

    assert site.browser.get("/console/decisions/d-701").status_code == 404
    assert "theirs" not in site.browser.get("/console/decisions").text
    named = site.browser.get("/console/decisions", params={"tenant": "globex"})
    assert named.status_code == 400
    assert "not bound to that tenant" in named.text


def test_an_approval_is_given_with_reason_and_end(site: Any) -> None:
    waits(site, asked(740, "approve-me"))
    site.sign_in("soc", name="Ada")
    done = site.post("/console/approvals/i-740", action="approve", why="CHG-1", valid_s="900")

    assert done.status_code == 303
    made = site.store.interventions.get("i-740")
    assert (made.status, made.why, made.decided_by) == ("approved", "CHG-1", "console:u-1")
    assert made.expires_ms == NOW_MS + 900_000
    assert "is approved: payments:write" in site.browser.get(done.headers["location"]).text
    again = site.post("/console/approvals/i-740", action="reject", why="no")
    assert again.status_code == 409
    assert "Nothing was done" in again.text


def test_approvals_of_a_status_alone_are_shown(site: Any) -> None:
    waits(site, asked(756, "still-undecided"))
    waits(site, asked(757, "was-rejected"))
    site.sign_in("soc")
    site.post("/console/approvals/i-757", action="reject", why="no")
    pages = {
        status: site.browser.get("/console/approvals", params={"status": status}) for status in ("pending", "rejected")
    }

    assert "still-undecided" in pages["pending"].text and "was-rejected" not in pages["pending"].text
    assert "was-rejected" in pages["rejected"].text and "still-undecided" not in pages["rejected"].text
    assert site.browser.get("/console/approvals", params={"status": "odd"}).status_code == 422


def test_an_approval_is_given_for_one_use(site: Any) -> None:
    waits(site, asked(755, "approve-me-once"))
    site.sign_in("soc", name="Ada")
    page = site.browser.get("/console/approvals").text
    done = site.post("/console/approvals/i-755", action="approve", why="CHG-3", one_use="yes")

    assert 'name="one_use"' in page and "checked" not in page
    assert site.store.interventions.get("i-755").status == "approved_once"
    assert "is approved once: payments:write" in site.browser.get(done.headers["location"]).text
    site.post("/console/approvals/i-755", action="withdraw", why="not needed")
    assert site.store.interventions.get("i-755").status == "ended"


def test_an_access_path_is_trusted_where_its_box_is_ticked(site: Any) -> None:
    of_call, of_path = f"call:{'a' * 32}", f"path:{'b' * 32}"
    for number, scopes in ((751, (of_call, of_path)), (752, (of_call, of_path)), (753, (of_call,))):
        waits(site, asked(number, f"by-another-key-{number}", scopes=scopes))
    site.sign_in("soc", name="Ada")
    page = site.browser.get("/console/approvals").text
    site.post("/console/approvals/i-751", action="approve", why="CHG-2", valid_s="604800", trust_path="yes")
    site.post("/console/approvals/i-752", action="approve", why="once")
    refused = site.post("/console/approvals/i-753", action="approve", why="x", trust_path="yes")

    assert page.count('name="trust_path"') == 2 and "checked" not in page
    assert [site.store.interventions.get(f"i-{number}").scopes for number in (751, 752)] == [
        (of_call, of_path),
        (of_call,),
    ]
    assert refused.status_code == 422 and "trust_path" in refused.text
    assert site.store.interventions.get("i-753").status == "pending"
    site.post("/console/approvals/i-753", action="reject", why="end of the test")


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"action": "approve", "why": ""}, 422, "say why"),
        ({"action": "approve", "why": "x", "valid_s": "5"}, 422, "valid_s"),
        ({"action": "approve", "why": "x", "valid_s": "soon"}, 422, "valid_s"),
        ({"action": "burn", "why": "x"}, 400, "choose to approve or to reject"),
    ],
)
def test_a_form_that_says_nothing_does_nothing(site: Any, form: dict[str, str], status: int, words: str) -> None:
    if site.store.interventions.get("i-741") is None:
        waits(site, asked(741, "still-waiting"))
    site.sign_in("soc")
    answer = site.post("/console/approvals/i-741", **form)

    assert answer.status_code == status
    assert words in answer.text
    assert site.store.interventions.get("i-741").status == "pending"


def test_an_approval_of_another_tenant_can_not_be_decided(site: Any) -> None:
    waits(site, asked(742, "not-yours", "globex"))
    site.sign_in("soc")

    assert "not-yours" not in site.browser.get("/console/approvals").text
    assert site.post("/console/approvals/i-742", action="approve", why="x").status_code == 404
    assert site.store.interventions.get("i-742").status == "pending"


def test_who_only_looks_gets_no_buttons(site: Any) -> None:
    waits(site, asked(743, "look-only"))
    site.sign_in("readers")
    text = site.browser.get("/console/approvals").text

    assert "look-only" in text
    assert 'value="approve"' not in text
    assert site.post("/console/approvals/i-743", action="approve", why="x").status_code == 403


def test_what_a_source_that_is_gone_sent_is_sent_again_as_the_persons_own(site: Any) -> None:
    event = {
        "id": "e",
        "time": "2025-11-24T16:00:00Z",
        "type": "tool.call",
        "tenant": "acme",
        "action": "read",
        "agent": {"id": "x", "issuer": AS},
        "outcome": "success",
    }
    refused(site, letter(753, "long-gone", msgspec.json.encode(event)), letter(755, "long-gone", b"{"))
    site.sign_in("trust-admins")
    assert "is no longer in the settings" in site.browser.get("/console/dead-letters/l-753").text

    sent, wrong = (site.post(f"/console/dead-letters/l-{number}/replay") for number in (753, 755))

    assert "1 accepted" in sent.text
    assert site.store.dead_letters.get("l-753").replayed_ms == NOW_MS
    assert wrong.status_code == 400
    assert "Refused again" in wrong.text
    assert site.store.dead_letters.get("l-755").replayed_ms == 0


def test_letters_are_of_those_who_see_all(site: Any) -> None:
    refused(site, letter(754))
    site.sign_in("blind")
    page = site.browser.get("/console/dead-letters")

    assert page.status_code == 200
    assert "None that you may see" in page.text
    assert site.browser.get("/console/dead-letters/l-754").status_code == 404
