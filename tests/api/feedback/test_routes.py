"""Feedback over HTTP: what is refused, what a preview is for, and that what is said reaches the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.api.feedback import preview_runner
from trustwatch.api.feedback import service as feedback_service
from trustwatch.api.feedback.preview_runner import LOST_AFTER_MS
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.feedback import AdoptFeedbackRule, FeedbackRule, PartitionRule, RevokeFeedbackRule

from ...support.console_records import row_of
from ...support.feedback_person import AS, DAY_S, FOUND, NOW_MS, Person, decision


@pytest.fixture
def person(site: Any) -> Person:
    return Person(site)


def problem(response: Any, status: int, *words: str) -> str:
    """What a problem document says; it must have the status and the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    assert all(word in detail for word in words), detail
    return detail


def test_a_false_positive_is_previewed_adopted_listed_and_revoked(person: Person) -> None:
    body = person.previewed(person.draft("first_seen_target", "hour_surprise"))
    seen = person.ended(body["preview_id"])
    assert (seen["status"], seen["progress"], seen["alerts_before"], seen["alerts_after"]) == ("done", 1.0, 2, 1)
    assert seen["window"] == FOUND["window"]
    (job,) = person.runs.jobs
    assert (job.marked.event_id, job.until_ms - job.from_ms) == ("evt-1", 7 * 86_400_000)

    made = person.adopt(body)
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["status"], told["author"], told["verdict"]) == ("active", "gateway", "false_positive")
    assert told["scope"]["features"] == ["target_surprise", "hour_surprise"]
    assert told["expires_at"] == "2025-11-25T16:00:00.000Z"
    (command,) = person.commands()
    assert isinstance(command, AdoptFeedbackRule)
    assert (command.by, command.why, command.decision_id) == ("gateway", "a new supplier", "D0001")
    assert command.withdraw == 8.5  # without the 4.0 of the hard signal
    assert command.rule.features == ("target_surprise", "hour_surprise")

    (listed,) = person.site.get("/v1/feedback").json()["items"]
    assert (listed["feedback_id"], listed["events_matched"]) == (told["feedback_id"], 0)
    ended = person.revoke(told["feedback_id"])
    assert (ended.status_code, ended.json()["status"], ended.json()["revoked_why"]) == (200, "revoked", "wrong")
    assert [step["action"] for step in ended.json()["steps"]] == ["adopted", "revoked"]
    assert isinstance(person.commands()[1], RevokeFeedbackRule)
    assert [one["action"] for one in person.audited()] == ["feedback.adopted", "feedback.revoked"]
    assert person.audited()[0]["error"] == "recorded_by_trustwatch"
    problem(person.revoke(told["feedback_id"]), 409, "revoked already")


def test_nothing_is_adopted_that_was_not_looked_at(person: Person) -> None:
    body = person.draft()
    problem(person.adopt(body), 409, "look first")
    problem(person.adopt(body | {"preview_id": "unknown"}), 409, "look first")
    seen = person.previewed(body)
    problem(person.adopt(seen | {"expires_in_s": 2 * DAY_S}), 409, "another draft")
    problem(person.adopt(seen | {"scope": {"kind": "peer_group", "features": ["target_surprise"]}}), 409, "another")
    person.runs.error = "the log is damaged"
    failed = person.start(body).json()["preview_id"]
    assert person.ended(failed)["error"] == "the log is damaged"
    problem(person.adopt(body | {"preview_id": failed}), 409, "failed", "the log is damaged")
    person.site.clock.now += DAY_S + 60
    problem(person.adopt(seen), 409, "more than a day old")

    assert person.commands() == []
    assert person.site.get("/v1/feedback").json()["items"] == []


def test_what_could_not_be_previewed_is_adopted_by_saying_so(person: Person) -> None:
    person.runs.result["unseen"] = "nothing is kept"
    body = person.previewed(person.draft())
    problem(person.adopt(body), 409, "accept_unseen")

    made = person.adopt(body | {"accept_unseen": True})
    assert (made.status_code, made.json()["unseen"]) == (201, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"expires_in_s": 0}, ("needs an end",)),
        ({"expires_in_s": 91 * DAY_S}, ("90 days",)),
        ({"scope": {"features": None}, "expires_in_s": 2 * DAY_S}, ("24 hours",)),
        ({"scope": {"kind": "peer_group", "features": None}}, ("peer group", "features")),
        ({"scope": {"features": []}}, ("at least one",)),
        ({"scope": {"resource": " "}}, ("`resource` is empty",)),
        ({"scope": {"features": ["nonsense"]}}, ("nonsense is not a feature", "target_surprise")),
        ({"scope": {"features": ["method_downgrade"]}}, ("hard signal", "risk.disabled_signals")),
        ({"scope": {"features": ["unregistered_key"]}}, ("hard signal",)),
        ({"reason": "  "}, ("say why",)),
    ],
)
def test_no_rule_is_broader_than_it_may_be(person: Person, more: dict[str, Any], words: tuple[str, ...]) -> None:
    body = person.draft(**more)
    assert problem(person.start(body), 422, *words) == problem(person.adopt(body), 422, *words)


def test_feedback_is_about_decisions_that_raised_somebody(person: Person) -> None:
    problem(person.start(person.draft(), "D0002"), 422, "raised no agent")
    problem(person.adopt(person.draft(), "D0009"), 404)
    problem(person.start(person.draft(scope={"kind": "peer_group"}), "D0003", "globex"), 422, "no type")


def test_tenants_are_kept_apart(person: Person) -> None:
    body = person.previewed(person.draft())
    told = person.adopt(body).json()

    problem(person.start(person.draft(), "D0003"), 404)
    problem(person.adopt(person.draft(verdict="true_positive"), client="globex"), 404)
    problem(person.site.get(f"/v1/feedback/previews/{body['preview_id']}", "globex"), 404)
    problem(person.site.get(f"/v1/feedback/{told['feedback_id']}", "globex"), 404)
    problem(person.revoke(told["feedback_id"], "globex"), 404)
    assert person.site.get("/v1/feedback", "globex").json()["items"] == []
    problem(person.site.get("/v1/feedback", "globex", tenant="acme"), 403)


def test_feedback_needs_its_scope_and_another_voice_than_the_agents(person: Person) -> None:
    path = "/v1/decisions/D0001/feedback"
    problem(person.post(path, person.draft(), "gateway", "trust.score:read"), 403)
    mine = AgentName(IdentityHasher().agent_key("acme", AS, "two"), "acme", AS, "two")
    at = person.site.store.partitions.position(0)
    told = [decision(7, agent=mine)]
    person.site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], told, [], []))
    problem(
        person.adopt(person.draft(verdict="true_positive"), "D0007", "two"), 403, "a caller cannot decide about itself"
    )
    made = person.adopt(person.draft(verdict="true_positive"), "D0007", "gateway")
    assert made.status_code == 201
    problem(person.revoke(made.json()["feedback_id"], "two"), 403, "a caller cannot decide about itself")
    assert person.revoke(made.json()["feedback_id"], "gateway").status_code == 200


@pytest.mark.parametrize("client", ["two", "globex"], ids=["by name", "by the client of an actuator"])
def test_nobody_adopts_a_rule_for_its_own_group(new_site: Callable[..., Any], client: str) -> None:
    hydra = ActuatorSettings("as", "hydra", "https://as.example", (AS,), clients={"bot-7": "globex"})
    person = Person(new_site(actuators=(hydra,)))
    store, agent_id = person.site.store, {"two": "two", "globex": "bot-7"}[client]
    tenant = {"two": "acme", "globex": "globex"}[client]
    theirs = AgentName(IdentityHasher().agent_key(tenant, AS, "other"), tenant, AS, "other")
    mine = AgentName(
        IdentityHasher().agent_key(tenant, "https://b.example", agent_id), tenant, "https://b.example", agent_id
    )
    at = store.partitions.position(0)
    told = [decision(8, agent=theirs), decision(9, agent=theirs, agent_type="Clerk")]
    row = msgspec.structs.replace(row_of(agent_type="PaymentProcessor"), name=mine)
    store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [row], told, [], []))
    body = person.draft(scope={"kind": "peer_group"})

    problem(person.start(body, "D0008", client), 403, "a caller cannot decide about itself", "PaymentProcessor")
    seen = person.previewed(body, "D0008", "all")
    problem(person.adopt(seen, "D0008", client), 403, "a caller cannot decide about itself", "PaymentProcessor")
    assert person.commands() == []
    assert person.start(person.draft(), "D0008", client).status_code == 202  # of one other agent it may speak
    assert person.start(body, "D0009", client).status_code == 202  # and of another group
    assert person.adopt(seen, "D0008", "all").status_code == 201


@pytest.mark.parametrize(("tenant", "refused"), [("acme", True), ("globex", False)])
def test_an_agents_client_adopts_no_rule_for_a_group_before_the_agent_was_seen(
    new_site: Callable[..., Any], tenant: str, refused: bool
) -> None:
    hydra = ActuatorSettings("as", "hydra", "https://as.example", (AS,), tenants=(tenant,), clients={"bot-7": "two"})
    person = Person(new_site(actuators=(hydra,)))
    theirs = AgentName(IdentityHasher().agent_key("acme", AS, "other"), "acme", AS, "other")
    at = person.site.store.partitions.position(0)
    told = [decision(8, agent=theirs)]
    person.site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], told, [], []))

    asked = person.start(person.draft(scope={"kind": "peer_group"}), "D0008", "two")

    if refused:
        problem(asked, 403, "a caller cannot decide about itself", "bot-7, which was never seen")
        assert person.start(person.draft(), "D0008", "two").status_code == 202  # of one other agent it may speak
    else:
        assert asked.status_code == 202


def test_a_true_positive_is_a_label_and_changes_nothing(person: Person) -> None:
    calm = decision(4, level=1, previous_level=3, decided_ms=NOW_MS - 1_000, event_time_ms=NOW_MS - 2_000)
    at = person.site.store.partitions.position(0)
    person.site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], [calm], [], []))
    body = {"verdict": "true_positive", "reason": "stolen key"}

    told = person.adopt(body).json()

    assert (told["status"], told["expires_at"]) == ("noted", None)
    assert (told["label_from"], told["label_until"]) == ("2025-11-24T14:59:54.000Z", "2025-11-24T15:59:58.000Z")
    assert person.commands() == []
    assert [one["action"] for one in person.audited()] == ["feedback.noted"]
    problem(person.start(person.draft(verdict="true_positive")), 422, "nothing to preview")
    assert person.revoke(told["feedback_id"]).json()["status"] == "revoked"


def test_rules_are_bounded_in_number(new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_service, "MAX_RULES", 1)
    person = Person(new_site())
    first = person.adopt(person.previewed(person.draft())).json()
    second = person.previewed(person.draft("hour_surprise"))
    problem(person.adopt(second), 409, "there may be 1", "revoke one")
    other = person.previewed(person.draft(), "D0003", "globex")
    assert person.adopt(other, "D0003", "globex").status_code == 201

    person.revoke(first["feedback_id"])
    assert person.adopt(second).status_code == 201


def test_previews_run_one_at_a_time_and_few_wait(new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_runner, "PREVIEWS_WAITING", 1)
    person = Person(new_site())
    person.runs.held = True
    first, second = (person.start(person.draft()).json() for _ in range(2))
    refused = person.start(person.draft())
    assert (first["status"], second["status"]) == ("running", "waiting")
    problem(refused, 429, "of this tenant 2 previews run or wait")
    assert refused.headers["retry-after"] == "10"
    assert len(person.runs.jobs) == 1

    person.runs.held = False
    assert [person.ended(one["preview_id"])["status"] for one in (first, second)] == ["done", "done"]
    assert len(person.runs.jobs) == 2


def test_one_tenants_previews_keep_no_other_waiting(
    new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_runner, "PREVIEWS_WAITING", 1)
    person = Person(new_site())
    person.runs.held = True
    mine = [person.start(person.draft()).json() for _ in range(2)]
    problem(person.start(person.draft()), 429, "of this tenant 2")
    theirs = person.start(person.draft(), "D0003", "globex")
    assert (theirs.status_code, theirs.json()["status"]) == (202, "waiting")

    person.runs.held = False
    assert person.ended(theirs.json()["preview_id"], "globex")["status"] == "done"
    assert [person.ended(one["preview_id"])["status"] for one in mine] == ["done", "done"]
    assert [job.rule.tenant for job in person.runs.jobs] == ["acme", "globex", "acme"]


def test_a_preview_ends_in_time(new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_runner, "PREVIEW_MAX_S", 0.05)
    person = Person(new_site())
    person.runs.held = True
    ended = person.ended(person.start(person.draft()).json()["preview_id"])
    assert ended["status"] == "failed"
    assert "longer than 0.05 s" in ended["error"]


def test_a_preview_whose_process_is_gone_has_failed(person: Person) -> None:
    body = person.previewed(person.draft())
    row = person.site.store.feedback.get_preview(body["preview_id"])
    person.site.store.feedback.save_preview(
        msgspec.structs.replace(row, status="running", result=b"", preview_id="P-old")
    )
    assert person.site.get("/v1/feedback/previews/P-old").json()["status"] == "running"
    person.site.clock.now += LOST_AFTER_MS / 1000
    found = person.site.get("/v1/feedback/previews/P-old").json()
    assert (found["status"], "start another" in found["error"]) == ("failed", True)


def test_what_was_not_sent_is_sent_by_whoever_notices(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Any) -> int:
        raise Unavailable("no disk")

    body = person.previewed(person.draft())
    monkeypatch.setattr(person.site.log, "commit", refuse)
    told = person.adopt(body).json()
    assert told["status"] == "adopting"
    assert person.commands() == []

    monkeypatch.undo()
    person.site.wait(person.site.feedback.synchronise())
    assert person.commands() == []  # whoever wrote it may still be at it
    person.site.clock.now += 6
    person.site.wait(person.site.feedback.synchronise())
    assert len(person.commands()) == 1
    assert person.site.get(f"/v1/feedback/{told['feedback_id']}").json()["status"] == "active"


def test_a_rule_whose_feedback_was_erased_ends(person: Person) -> None:
    gone = FeedbackRule("F-gone", "peer_group", "7", "acme", "Payer", ("target_surprise",), None, NOW_MS * 2)
    at = person.site.store.partitions.position(0)
    held = PartitionRule(gone, 0, at.epoch, at.offset, -1, 0, 0)
    person.site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], [], [], [], feedback_rules=[held]))
    person.site.wait(person.site.feedback.synchronise())
    person.site.wait(person.site.feedback.synchronise())

    (command,) = person.commands()
    assert isinstance(command, RevokeFeedbackRule)
    assert (command.rule, command.by) == (gone, "trustwatch")
