"""Cases over HTTP: what people do, what is told and kept of it, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from trustwatch.api.agents.service import AgentService
from trustwatch.api.cases import agent_acts, routes, timeline
from trustwatch.api.feedback.service import FeedbackService
from trustwatch.api.http.agent_lookup import AgentSelector
from trustwatch.api.http.ledger import LIMITS, Ledger
from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings

from ...support.case_triage import Triage, agent, rise
from ...support.feedback_person import AS


@pytest.fixture
def triage(site: Any) -> Triage:
    """Somebody, and a service of their own with a case of two agents."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), network="AS65537"), rise(2, agent("b"), level=4, network="AS65537"))
    return person


CASE = "case-D0001"


def test_an_act_reads_no_more_entries_than_it_answers_with(triage: Triage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(routes.ENTRIES_AFTER_ACT):
        triage.act(CASE, "notes", 201, note=f"note {number}")
    cases, limits = triage.site.store.cases, []
    read = cases.entries

    def entries(case_id: str, tenants: Any = None, limit: int = 1_000) -> Any:
        limits.append(limit)
        return read(case_id, tenants, limit)

    monkeypatch.setattr(cases, "entries", entries)
    answer = triage.act(CASE, "close", verdict="expected", note="a drill")
    assert limits == [routes.ENTRIES_AFTER_ACT]
    assert (len(answer["entries"]), answer["entries"][-1]["action"]) == (routes.ENTRIES_AFTER_ACT, "closed")
    assert answer["entries_before"] == 3
    limits.clear()
    whole = triage.get(f"/{CASE}")
    assert (len(whole["entries"]), whole["entries_before"]) == (routes.ENTRIES_AFTER_ACT + 3, 0)
    assert limits == [1_000]


def test_a_case_goes_through_its_life(triage: Triage) -> None:
    assert triage.act(CASE, "acknowledge")["owner"] == "gateway"
    assert triage.act(CASE, "assign", owner="ann")["owner"] == "ann"
    triage.act(CASE, "notes", 201, note="looks like one campaign")
    snoozed = triage.act(CASE, "snooze", for_s=3600, note="the team is on it")
    assert snoozed["snoozed_until"] is not None
    assert triage.act(CASE, "snooze", for_s=0, note="enough")["snoozed_until"] is None
    contained = triage.act(CASE, "contain", note="stop them", valid_s=600)
    assert contained["status"] == "contained"
    pins = triage.site.get("/v1/interventions", kind="pin").json()["items"]
    assert sorted((pin["agent_id"], pin["level"], pin["status"]) for pin in pins) == [
        ("a", "critical", "active"),
        ("b", "critical", "active"),
    ]
    closed = triage.act(CASE, "close", verdict="true", note="stolen token")
    assert (closed["status"], closed["verdict"]) == ("closed", "true")
    actions = [one["action"] for one in closed["entries"]]
    assert actions[2:] == ["acknowledged", "assigned", "noted", "snoozed", "snoozed", "contained", "closed"]
    assert {one["by"] for one in closed["entries"]} == {"trustwatch", "gateway"}
    assert [(one["action"], one["status"], one["agents"]) for one in triage.told()] == [
        ("acknowledged", "acknowledged", ["a", "b"]),
        ("contained", "contained", ["a", "b"]),
        ("closed", "closed", ["a", "b"]),
    ]
    assert triage.audited() == [f"case.{action}" for action in actions[2:]]
    labels = triage.site.get("/v1/feedback", verdict="true_positive").json()["items"]
    assert sorted((one["decision_id"], one["reason"]) for one in labels) == [
        ("D0001", "stolen token"),
        ("D0002", "stolen token"),
    ]
    assert triage.act(CASE, "reopen", note="not so sure")["status"] == "acknowledged"


def test_what_does_not_do_is_refused_and_nothing_happens(triage: Triage) -> None:
    for what, body, words in (
        ("snooze", {"for_s": 3, "note": "x"}, "from 60"),
        ("snooze", {"for_s": 3600, "note": " "}, "say why"),
        ("contain", {"note": ""}, "say why"),
        ("close", {"verdict": "maybe", "note": "x"}, "verdict"),
        ("close", {"verdict": "false", "note": ""}, "say why"),
        ("merge", {"into": CASE}, "the case itself"),
        ("split", {"agents": [{"agent_id": "c"}], "note": "x"}, "no agent of the case"),
        ("split", {"agents": [{"agent_id": "a"}, {"agent_id": "b"}], "note": "x"}, "nothing would be left"),
        ("notes", {"note": "x" * 3000}, "note"),
    ):
        assert words in triage.act(CASE, what, 422, **body)["detail"], what
    assert triage.act("case-none", "acknowledge", 404)["code"] == "not_found"
    assert triage.act(CASE, "reopen", 409, note="x")["code"] == "case_open"
    triage.act(CASE, "close", verdict="expected", note="a drill")
    assert triage.act(CASE, "acknowledge", 409)["code"] == "case_closed"
    assert [one["action"] for one in triage.get(f"/{CASE}")["entries"]][2:] == ["closed"]
    assert triage.site.get("/v1/interventions").json()["items"] == []


def test_who_may_not_judge_may_not_act(triage: Triage) -> None:
    headers = triage.site.auth("gateway", "trust.score:read")
    assert triage.site.client.post(f"/v1/cases/{CASE}/acknowledge", json={}, headers=headers).status_code == 403
    assert triage.site.client.get(f"/v1/cases/{CASE}", headers=triage.site.auth("globex")).status_code == 404


def test_an_agent_decides_nothing_about_its_own_case(new_site: Callable[..., Any]) -> None:
    hydra = ActuatorSettings("as", "hydra", "https://as.example", (AS,), clients={"b": "gateway"})
    person = Triage(new_site(actuators=(hydra,)))
    person.raise_agents(rise(1, agent("a"), network="n"), rise(2, agent("b"), network="n"))
    assert person.act(CASE, "close", 403, verdict="false", note="x")["code"] == "own_decision"
    assert person.get(f"/{CASE}")["status"] == "open"


def test_what_a_person_did_not_see_is_not_decided(triage: Triage) -> None:
    seen = triage.get(f"/{CASE}")["revision"]
    triage.raise_agents(rise(3, agent("c"), level=2, network="AS65537"))
    for what, body in (("contain", {}), ("close", {"verdict": "false"}), ("split", {"agents": [{"agent_id": "a"}]})):
        assert triage.act(CASE, what, 409, note="x", revision=seen, **body)["code"] == "case_changed"
    assert triage.site.get("/v1/interventions").json()["items"] == []
    after = triage.act(CASE, "contain", note="x", valid_s=600, revision=triage.get(f"/{CASE}")["revision"])
    assert after["held_until"] is not None


def test_a_longer_hold_stays_and_a_release_ends_it(triage: Triage) -> None:
    triage.act(CASE, "contain", note="stop them", valid_s=86_400)
    triage.act(CASE, "contain", note="again", valid_s=60)
    held = {pin["expires_at"] for pin in triage.site.get("/v1/interventions", status="active").json()["items"]}
    assert len(held) == 1
    assert triage.get(f"/{CASE}")["held_until"] in held
    triage.act(CASE, "close", verdict="false", note="a new proxy", release=True)
    assert triage.site.get("/v1/interventions", status="active").json()["items"] == []


def test_what_could_not_be_done_of_one_agent_is_told_and_the_others_are_done(
    triage: Triage, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage.act(CASE, "contain", note="stop them")
    release = AgentService.release

    async def fail_for_a(self: AgentService, caller: Any, selector: AgentSelector, *rest: Any, **more: Any) -> Any:
        if selector.agent_id == "a":
            raise Unavailable("the store does not answer")
        return await release(self, caller, selector, *rest, **more)

    monkeypatch.setattr(AgentService, "release", fail_for_a)
    told = triage.act(CASE, "close", 409, verdict="false", note="a new proxy", release=True)
    assert told["code"] == "case_partly_closed"
    words = "the evidence could not be dropped of all agents: a: the store does not answer"
    again = "To try that again, reopen it and close it again: what is done stays"
    assert told["detail"] == f"case {CASE} is marked as closed, but {words}. {again}"
    after = triage.get(f"/{CASE}")
    assert (after["status"], after["entries"][-1]["note"]) == ("closed", words)
    assert triage.site.get("/v1/interventions", status="active").json()["items"] == []

    async def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("the store does not answer")

    triage.raise_agents(rise(5, agent("z"), level=3))
    monkeypatch.setattr(FeedbackService, "adopt", fail)
    told = triage.act("case-D0005", "close", 409, verdict="true", note="stolen")
    assert "the decision could not be labelled of all agents: z: the store does not answer" in told["detail"]


@pytest.fixture
def many(triage: Triage) -> list[str]:
    triage.raise_agents(*(rise(10 + at, agent(f"bot-{at:03}"), network="AS9") for at in range(200)))
    return [one["agent_id"] for one in triage.get("/case-D0010")["agents"]]


def test_a_store_that_does_not_answer_is_not_asked_200_times(
    triage: Triage, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    release = AgentService.release

    async def fail(_: AgentService, __: Any, selector: AgentSelector, *___: Any, **____: Any) -> None:
        asked.append(selector.agent_id)
        raise Unavailable("the store does not answer in time")

    monkeypatch.setattr(AgentService, "release", fail)
    told = triage.act("case-D0010", "close", 409, verdict="false", note="a new proxy", release=True)
    assert len(many) == 200 and asked == many[:3]
    rest = (
        f"197 not tried, since the 3 before failed in a row: {', '.join(many[3:13])}, and others; {many[0]}: the store"
    )
    assert f"could not be dropped of all agents: {rest} does not answer in time; {many[1]}: " in told["detail"]
    assert rest in triage.get("/case-D0010")["entries"][-1]["note"]
    monkeypatch.setattr(AgentService, "release", release)
    triage.act("case-D0010", "reopen", note="again")
    assert triage.act("case-D0010", "close", verdict="false", note="a new proxy", release=True)["status"] == "closed"


def test_one_that_hangs_is_waited_for_once(triage: Triage, many: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def hang(_: FeedbackService, __: Any, decision_id: str, *___: Any) -> None:
        asked.append(decision_id)
        await asyncio.sleep(60)

    async def count(_: AgentService, __: Any, selector: AgentSelector, *___: Any, **____: Any) -> None:
        asked.append(selector.agent_id)

    monkeypatch.setattr(agent_acts, "ACT_WITHIN_S", 0.05)
    monkeypatch.setattr(FeedbackService, "adopt", hang)
    monkeypatch.setattr(AgentService, "release", count)
    told = triage.act("case-D0010", "close", 409, verdict="true", note="stolen", release=False)
    assert len(asked) == 1
    assert f"labelled of all agents: 199 not tried, since the 30 s of one act were over: {many[1]}, " in told["detail"]
    assert f"{many[10]}, and others; {many[0]}: no answer came in time, so it may be done or not." in told["detail"]
    assert triage.get("/case-D0010")["status"] == "closed"


def test_receivers_of_incidents_hear_how_they_end(triage: Triage) -> None:
    triage.raise_agents(rise(3, agent("c"), level=2))
    triage.act("case-D0003", "merge", into=CASE)
    triage.act(CASE, "split", 201, agents=[{"agent_id": "b"}], note="another thing")
    triage.act(CASE, "acknowledge")
    triage.act(CASE, "acknowledge")
    told = [(one["case_id"][:10], one["action"], one["status"]) for one in triage.told()]
    assert told[0] == ("case-D0003", "merged", "closed")
    assert {one[1:] for one in told[1:3]} == {("opened", "open"), ("split", "open")}
    assert told[3:] == [(CASE, "acknowledged", "acknowledged")]
    story = triage.get(f"/{CASE}/timeline")["items"]
    assert "A message about the case to pager waits for its next attempt" in {item["text"] for item in story}


def test_the_story_of_a_long_case_holds_up_nobody(triage: Triage, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: threads.append(threading.current_thread()) or work(*given)

    async def ident() -> int:
        return threading.get_ident()

    monkeypatch.setattr(timeline, "build_timeline", noting(timeline.build_timeline))
    monkeypatch.setattr(routes, "render_markdown", noting(routes.render_markdown))
    assert triage.get(f"/{CASE}/timeline")["items"]
    path = f"/v1/cases/{CASE}/report"
    assert triage.site.client.get(path, headers=triage.site.auth("gateway")).status_code == 200
    assert len(threads) == 3
    assert triage.site.wait(ident()) not in {thread.ident for thread in threads}
    assert not any(thread.name.startswith("asyncio") for thread in threads)  # of the loop's default executor


TENANTS = {"gateway": "acme", "two": "source two"}  # as which the ledger counts them


class Asking:
    def __init__(self, triage: Triage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.triage = triage
        self.go = threading.Event()
        self.pool = ThreadPoolExecutor(10)
        build = timeline.build_timeline
        monkeypatch.setattr(timeline, "build_timeline", lambda records: self.go.wait(60) and build(records))

    def ask(self, client: str = "gateway", case: str = CASE) -> Any:
        site = self.triage.site
        with httpx2.Client(base_url=site.url, trust_env=False, timeout=60) as asking:
            return asking.get(f"/v1/cases/{case}/timeline", headers=site.auth(client))

    def ask_at_once(self, count: int, client: str = "gateway") -> list[Any]:
        queue, tenant = self.triage.site.app.app.state.services.get(Ledger).queue, TENANTS[client]
        wanted = queue.waiting(tenant) + count
        asked = [self.pool.submit(self.ask, client) for _ in range(count)]
        end = time.monotonic() + 60
        while queue.waiting(tenant) < wanted:
            assert time.monotonic() < end
            time.sleep(0.01)
        return asked


@pytest.fixture
def asking(triage: Triage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    made = Asking(triage, monkeypatch)
    yield made
    made.go.set()
    made.pool.shutdown()


def test_who_asks_for_too_many_stories_is_told_to_come_again(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tenant is answered meanwhile."""
    monkeypatch.setitem(LIMITS, "work", LIMITS["work"]._replace(amount=4))
    waiting = asking.ask_at_once(4)
    for case in (CASE, "case-of-nobody"):
        refused = asking.ask(case=case)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert "bulk work of this tenant" in refused.json()["detail"]
    other = asking.ask_at_once(1, "two")
    asking.go.set()
    assert [one.result().status_code for one in waiting] == [200] * 4
    assert other[0].result().status_code in (200, 404)
    assert asking.ask().status_code == 200


def test_the_story_of_a_case_has_all_that_happened(triage: Triage) -> None:
    triage.raise_agents(rise(3, agent("c"), level=2, network="AS65537"))
    triage.act(CASE, "acknowledge", note="*looking*")
    triage.act(CASE, "contain", note="stop | them", valid_s=600)
    items = triage.get(f"/{CASE}/timeline")["items"]
    kinds = [item["kind"] for item in items]
    assert {"decision", "case", "pin", "message"} <= set(kinds)
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    told = {item["text"] for item in items}
    assert "Risk went from low to critical: first use of x" in told
    assert "trustwatch added an agent (the same new network AS65537)" in told
    assert "gateway fixed the level at critical: stop | them" in told
    assert any(text.startswith("An alert to pager was held back: cool-down") for text in told)
    reader = triage.site.client.get(
        f"/v1/cases/{CASE}/timeline", headers=triage.site.auth("gateway", "trust.score:read")
    )
    assert "message" not in {item["kind"] for item in reader.json()["items"]}
    report = triage.site.get(f"/v1/cases/{CASE}/report")
    assert report.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "stop \\| them" in report.text
    assert "\\*looking\\*" in report.text
    assert "- network AS65537: 3 agents" in report.text
