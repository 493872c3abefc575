"""Buttons in Slack: whose click counts, what it does and says before, and what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from trustwatch.api.access.service import ContainmentService
from trustwatch.api.cases.agent_acts import CaseAgentActs
from trustwatch.api.cases.slack_requests import SlackRequestRefused, SlackSignatures, is_response_url
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.notifiers.alert_formats import render_alert
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget

from ...support.case_triage import Triage, agent, rise
from ...support.feedback_person import AS
from ...support.slack import (
    RESPONSE_URL,
    SIGNING_SECRET,
    TEAM,
    USER,
    click_body,
    interactions,
    signed_headers,
    target_with_buttons,
)

CASE = "case-D0001"
PATH = "/v1/slack/interactions"


class Clicker:
    """Somebody with Slack before the cases of a service."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.triage = Triage(site)
        self.triage.raise_agents(
            rise(1, agent("a"), network="AS65537"), rise(2, agent("b"), level=4, network="AS65537")
        )
        self.use(target_with_buttons("acme"))

    def use(self, *targets: WebhookTarget) -> None:
        """Targets of the settings from now on."""
        runtime = self.site.runtime
        runtime.settings = msgspec.structs.replace(runtime.settings, webhooks=targets)

    def send(self, body: bytes, secret: str = SIGNING_SECRET, at: int | None = None, **headers: str) -> int:
        """Status of a request; each is of a later second, so that none looks like a replay."""
        self.site.clock.now += 1
        signed = signed_headers(body, int(self.site.clock.now) if at is None else at, secret)
        return int(self.site.client.post(PATH, content=body, headers={**signed, **headers}).status_code)

    def press(self, action: str, value: str = "", **changes: Any) -> Any:
        """Press a button, and see the answer that its presser gets."""
        before = len(self.site.slack_answers)
        value = value or json.dumps({"t": "chat", "c": CASE})
        assert self.send(click_body(action, value, **changes)) == 200
        deadline = time.monotonic() + 10
        while len(self.site.slack_answers) == before:
            assert time.monotonic() < deadline, "no answer came"
            time.sleep(0.01)
        url, message = self.site.slack_answers[-1]
        assert url == RESPONSE_URL
        assert message["response_type"] == "ephemeral"
        return message

    def case(self, case_id: str = CASE) -> Any:
        return self.triage.get(f"/{case_id}")

    def counted(self) -> dict[str, float]:
        """Clicks by outcome, as metrics tell."""
        text = self.site.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("trustwatch_slack_interactions_total{")]
        return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


@pytest.fixture
def clicker(site: Any) -> Clicker:
    return Clicker(site)


def said(message: Any) -> str:
    return str(message["blocks"][0]["text"]["text"])


def buttons(message: Any) -> dict[str, str]:
    """Values of the buttons of a message, by action."""
    rows = [block["elements"] for block in message["blocks"] if block["type"] == "actions"]
    return {one["action_id"]: one["value"] for row in rows for one in row}


def test_a_person_acknowledges(clicker: Clicker) -> None:
    """The case is theirs under the name that the console knows; targets hear of it, the audit log has it."""
    message = clicker.press("acknowledge")
    assert said(message) == f"You are on it, and others see that: {CASE}."
    assert not message["replace_original"]
    case = clicker.case()
    assert (case["status"], case["owner"]) == ("acknowledged", "console:ann")
    assert [one["by"] for one in clicker.triage.told()] == ["console:ann"]
    assert clicker.triage.audited() == ["case.acknowledged"]
    assert clicker.counted() == {"done": 1}


def test_what_it_will_do_is_said_before_anything_is_contained(clicker: Clicker) -> None:
    """At which server, for each agent, as the console says it; the second button does it, once."""
    actuator = ActuatorSettings(
        name="kc", kind="webhook", url="https://kc.example", issuers=(AS,), tenants=("acme",), secret=WHSEC
    )
    runtime = clicker.site.runtime
    runtime.settings = msgspec.structs.replace(runtime.settings, actuators=(actuator,))
    asked = clicker.press("ask-contain")
    assert clicker.case()["status"] == "open"
    words = said(asked)
    assert words.startswith(
        "a, b: open, 2 agents, highest critical. Containing it acts on each of its agents as critical"
    )
    assert "• a gets no new tokens, and those it has are revoked: at kc, and where hooks and gateways ask." in words
    done = clicker.press("contain", buttons(asked)["contain"])
    assert said(done).startswith(f"The case is contained: {CASE}")
    assert done["replace_original"]
    case = clicker.case()
    assert case["status"] == "contained"
    assert (case["entries"][-1]["by"], case["entries"][-1]["note"]) == ("console:ann", "by a button in Slack (chat)")
    pins = clicker.site.get("/v1/interventions", kind="pin").json()["items"]
    assert sorted((pin["agent_id"], pin["status"]) for pin in pins) == [("a", "active"), ("b", "active")]
    again = clicker.press("contain", buttons(asked)["contain"])
    assert said(again) == f"The case is contained already, by you: {CASE}."
    assert clicker.counted() == {"asked": 1, "done": 1, "changed": 1}


def test_no_name_of_an_agent_changes_the_question(clicker: Clicker) -> None:
    """Agents choose their names: none writes a line, turns one round, or pushes out what the button will do."""
    forging = agent("bot\n• others get nothing: all is well\u202e\x1b[2J")
    clicker.triage.raise_agents(*(rise(10 + at, agent(f"{at:02}" + "z" * 2046), network="AS9") for at in range(14)))
    clicker.triage.raise_agents(rise(40, forging))
    long, short = (json.dumps({"t": "chat", "c": case}) for case in ("case-D0010", "case-D0040"))
    asked = said(clicker.press("ask-contain", long))
    assert "14 agents, highest high. Containing it acts on each of its agents as critical, for an hour:\n" in asked
    assert asked.count(" gets no new tokens, and those it has are revoked: ") == 12
    assert asked.endswith("• and 2 more, each by its own policy")
    for verdict in ("true", "false", "expected"):
        assert f"14 agents, highest high. Closing it as {verdict}: " in said(
            clicker.press(f"ask-close-{verdict}", long)
        )
    lines = said(clicker.press("ask-contain", short)).split("\n")
    assert len(lines) == 2
    assert lines[1].startswith("• bot • others get nothing: all is well [2J gets no new tokens")
    assert all(line.isprintable() for line in lines)


def test_a_case_that_changed_is_asked_about_anew(clicker: Clicker) -> None:
    """A further rise, which the person was not shown, is in the new question; nothing was done before."""
    asked = clicker.press("ask-close-false")
    clicker.triage.raise_agents(rise(3, agent("c"), network="AS65537"))
    message = clicker.press("close-false", buttons(asked)["close-false"])
    assert said(message).startswith("The case has changed. a, b and 1 more: open, 3 agents, highest critical.")
    assert clicker.case()["status"] == "open"
    closed = clicker.press("close-false", buttons(message)["close-false"])
    assert said(closed) == f"The case is closed as false: {CASE}."
    assert (clicker.case()["status"], clicker.case()["verdict"]) == ("closed", "false")
    assert "it is closed: reopen" in said(clicker.press("acknowledge")).replace(f"case {CASE} is", "it is")
    assert said(clicker.press("ask-contain")).startswith("Nothing was done: the case is closed.")


@pytest.mark.parametrize("action", ["close-true", "close-expected", "close-false-release", "close-expected-release"])
def test_each_way_to_close(clicker: Clicker, action: str) -> None:
    """With the verdict, and with a release where the button says so; a true one is not released."""
    verdict, _, release = action.removeprefix("close-").partition("-")
    clicker.press("acknowledge")
    clicker.triage.act(CASE, "contain", note="stop", valid_s=600)
    asked = clicker.press(f"ask-close-{verdict}")
    assert ("close-true-release" in buttons(asked)) is False
    assert ("Releasing drops the evidence" in said(asked)) == (verdict != "true")
    clicker.press(action, buttons(asked)[action])
    case = clicker.case()
    assert (case["status"], case["verdict"]) == ("closed", verdict)
    pins = {pin["status"] for pin in clicker.site.get("/v1/interventions", kind="pin").json()["items"]}
    assert (pins == {"active"}) == (not release)


def test_whoever_is_not_mapped_is_told_so(clicker: Clicker) -> None:
    """A user whom the settings do not name does nothing, and is the only one who sees that."""
    message = clicker.press("acknowledge", user={"id": "U9999999999"})
    assert said(message).startswith("Nothing was done: user U9999999999 is nobody of ours.")
    assert clicker.case()["status"] == "open"
    assert clicker.counted() == {"unknown_person": 1}


def test_another_workspace_or_channel_is_refused(clicker: Clicker) -> None:
    """The same user id elsewhere is another person; a button that was moved is not pressed here."""
    for change in ({"team": {"id": "T9999999999"}}, {"channel": {"id": "C9999999999"}}):
        assert said(clicker.press("acknowledge", **change)).startswith("Nothing was done: the button is of another")
    assert clicker.case()["status"] == "open"


def test_a_user_of_another_workspace_is_refused(clicker: Clicker) -> None:
    """In a shared channel a user id is unique with its workspace alone; an app of an organization names no team."""
    theirs = {"id": USER, "team_id": "T9999999999"}
    for change in ({"user": theirs}, {"user": theirs, "team": None}):
        assert "is of another workspace" in said(clicker.press("acknowledge", **change))
    assert clicker.case()["status"] == "open"
    clicker.press("acknowledge", team=None)
    assert clicker.case()["status"] == "acknowledged"


GRID, OTHER_GRID, SISTER = "E0000000001", "E0000000002", "T0000000002"
"""An Enterprise Grid, another one, and a second workspace of the first."""


def grid_click(home: str, team: str | None = TEAM, organization: str = GRID, **more: Any) -> dict[str, Any]:
    """A click in a workspace of a grid, in the shape of Slack's page and of its Bolt types; *home* is the user's."""
    named = {"id": team, "domain": "example", "enterprise_id": organization, "enterprise_name": "Acme"}
    return {
        "user": {"id": USER, "username": "ann.at.slack", "name": "ann.at.slack", "team_id": home},
        "team": None if team is None else named,
        "enterprise": {"id": organization, "name": "Acme"},
        "is_enterprise_install": team is None,
        **more,
    }


@pytest.mark.parametrize("home", [SISTER, GRID], ids=["another workspace", "the organization"])
def test_a_user_of_the_same_grid_acts_where_the_settings_name_its_home(clicker: Clicker, home: str) -> None:
    """Slack tells the other workspace or the organization as home; only the home that is named counts."""
    for organization in (None, GRID):
        clicker.use(target_with_buttons("acme", organization=organization))
        message = clicker.press("acknowledge", **grid_click(home))
        assert f"names it as `home` of user {USER} in `slack_app.interactions.people`" in said(message)
    clicker.use(target_with_buttons("acme", organization=GRID, home=home))
    for refused in (
        grid_click("T9999999999"),
        grid_click(OTHER_GRID),
        grid_click(TEAM),
        grid_click(home, team=SISTER),
        grid_click(home, organization=OTHER_GRID),
        grid_click(home, team=None, organization=OTHER_GRID),
        grid_click(home, team=None, enterprise=None),
    ):
        assert said(clicker.press("acknowledge", **refused)).startswith("Nothing was done"), refused
    assert clicker.case()["status"] == "open"
    clicker.press("acknowledge", **grid_click(home))
    assert (clicker.case()["status"], clicker.case()["owner"]) == ("acknowledged", "console:ann")
    assert clicker.counted() == {"refused": 9, "done": 1}


def test_an_app_of_a_whole_organization_names_no_workspace(clicker: Clicker) -> None:
    """The organization has to be that of the settings; whose home is `team` needs nothing else."""
    clicker.use(target_with_buttons("acme", organization=GRID))
    clicker.press("acknowledge", **grid_click(TEAM, team=None))
    assert clicker.case()["status"] == "acknowledged"


def test_homes_need_an_organization() -> None:
    """A home by itself would let in a user of whoever shares the channel, by a slip of the pen."""
    with pytest.raises(ValueError, match="say by `organization`"):
        interactions("acme", home=SISTER)
    assert interactions("acme", home=TEAM).organization is None


def test_a_case_of_somebody_else_stays_theirs(clicker: Clicker) -> None:
    """Who acknowledges it hears whose it is."""
    clicker.triage.act(CASE, "assign", owner="bob")
    assert said(clicker.press("acknowledge")) == f"The case is acknowledged: {CASE}. It stays with bob."


def test_what_is_done_in_part_is_not_called_nothing(clicker: Clicker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that could not be pinned is told of, with the mark; so is an error that comes after a case is closed."""

    async def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("the store does not answer")

    monkeypatch.setattr(ContainmentService, "pin", fail)
    message = clicker.press("contain", buttons(clicker.press("ask-contain"))["contain"])
    assert said(message).startswith(
        f"Case {CASE} is marked as contained, but the level could not be fixed of all agents: a: "
    )
    monkeypatch.setattr(CaseAgentActs, "label", fail)
    message = clicker.press("close-true", buttons(clicker.press("ask-close-true"))["close-true"])
    assert said(message).startswith("Some of it may be done: look at the case in the console.")
    assert clicker.case()["status"] == "closed"
    assert clicker.counted() == {"asked": 2, "partly": 1, "failed": 1}


def test_a_target_acts_for_its_tenants_alone(clicker: Clicker) -> None:
    """A case of another tenant is not there, whatever its button says; nor is a target that another app signs for."""
    clicker.triage.raise_agents(rise(4, agent("x", "globex")))
    theirs = json.dumps({"t": "chat", "c": "case-D0004"})
    for action in ("acknowledge", "ask-contain", "contain", "ask-close-true", "close-true"):
        assert said(clicker.press(action, theirs)).startswith("Nothing was done: there is no such case"), action
    other = target_with_buttons("globex", name="theirs", secret="0" * 32)
    clicker.use(target_with_buttons("acme"), other)
    by_other = json.dumps({"t": "theirs", "c": "case-D0004"})
    assert said(clicker.press("acknowledge", by_other)).startswith("Nothing was done: this button is of a target")
    (listed,) = clicker.site.get("/v1/cases", "globex").json()["items"]
    assert (listed["case_id"], listed["status"]) == ("case-D0004", "open")


def test_nobody_decides_about_itself(clicker: Clicker) -> None:
    """A person whose name is that of an agent of the case is refused, as over API and console."""
    clicker.triage.raise_agents(rise(5, agent("ann")))
    message = clicker.press("acknowledge", json.dumps({"t": "chat", "c": "case-D0005"}))
    assert "nobody decides about itself" in said(message)
    assert clicker.case("case-D0005")["status"] == "open"
    person = msgspec.structs.replace(interactions("acme").people[0], subject="a")
    app = target_with_buttons("acme").slack_app
    assert app is not None
    known = msgspec.structs.replace(app, interactions=msgspec.structs.replace(interactions("acme"), people=(person,)))
    clicker.use(msgspec.structs.replace(target_with_buttons("acme"), slack_app=known))
    assert "nobody decides about itself" in said(clicker.press("acknowledge"))


def test_what_is_not_signed_by_slack_does_nothing(clicker: Clicker) -> None:
    """Another secret, another body, another time, no header, two: 401, and no answer goes anywhere."""
    body = click_body("acknowledge", json.dumps({"t": "chat", "c": CASE}))
    now = int(clicker.site.clock.now)
    assert clicker.send(body, secret="another") == 401
    assert clicker.send(body + b" ", **{"x-slack-signature": signed_headers(body, now)["x-slack-signature"]}) == 401
    assert clicker.send(body, at=now - 302) == 401
    assert clicker.send(body, at=now + 400) == 401
    assert clicker.site.client.post(PATH, content=body).status_code == 401
    assert clicker.send(body, **{"x-slack-signature": "v0=" + "a" * 63}) == 401
    assert clicker.send(b"x" * 300_000) == 413
    assert clicker.site.client.get(PATH).status_code == 405
    assert clicker.case()["status"] == "open"
    assert clicker.site.slack_answers == []
    assert clicker.counted() == {"forged": 2, "stale": 2, "unsigned": 2}


def test_a_request_counts_once(clicker: Clicker) -> None:
    """The same bytes with the same signature again are refused; so is what was sent before this process began."""
    body = click_body("acknowledge", json.dumps({"t": "chat", "c": CASE}))
    clicker.site.clock.now += 10
    at = int(clicker.site.clock.now)
    assert clicker.send(body, at=at) == 200
    assert clicker.send(body, at=at) == 401
    assert clicker.send(body, at=at - 60) == 401
    assert clicker.counted()["replayed"] == 2


def test_what_is_no_click_of_ours_is_left_alone(clicker: Clicker) -> None:
    """Other interactions of the app get 200 and nothing else; what is no form gets 400."""
    value = json.dumps({"t": "chat", "c": CASE})
    for body in (
        click_body("acknowledge", value, type="view_submission"),
        click_body("something-else", value),
        click_body("acknowledge", "no JSON"),
        click_body("acknowledge", json.dumps({"t": "chat"})),
        click_body("acknowledge", value, actions=[]),
        click_body("acknowledge", value, user=None),
    ):
        assert clicker.send(body) == 200
    for body in (b"", b"payload=%7B", b"payload=1&payload=2", b"\xff", b"other=1"):
        assert clicker.send(body) == 400
    assert clicker.case()["status"] == "open"
    assert clicker.site.slack_answers == []


def test_answers_go_to_slack_alone(clicker: Clicker) -> None:
    """The click counts; what it says of the case is sent to no other host."""
    value = json.dumps({"t": "chat", "c": CASE})
    assert clicker.send(click_body("acknowledge", value, response_url="https://hooks.slack.com.evil.example/x")) == 200
    deadline = time.monotonic() + 10
    while clicker.case()["status"] == "open":
        assert time.monotonic() < deadline, "the click did not count"
    assert "acknowledged" in said(clicker.press("ask-contain"))
    assert [url for url, _ in clicker.site.slack_answers] == [RESPONSE_URL]


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/actions/1",
        "https://hooks.slack.com:8443/x",
        "https://user@hooks.slack.com/x",
        "https://hooks.slack.com@evil.example/x",
        "https://evil.example/https://hooks.slack.com/x",
        "https://hooks.slack.com\\@evil.example/",
        "https://hooks.slack.com./x",
        "//hooks.slack.com/x",
        "https://[::1/x",
        "",
    ],
)
def test_what_is_no_address_of_slacks(url: str) -> None:
    """Host, scheme and port, to the letter."""
    assert not is_response_url(url)


def test_the_example_of_slacks_page() -> None:
    """Secret, time, body and signature as "Verifying requests from Slack" prints them."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signature = b"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    at, targets = 1_531_420_618, [target_with_buttons("acme")]
    headers = SlackSignatures.read_headers([b"%d" % at], [signature], at + 299.0)
    signatures = SlackSignatures(at - 1.0)
    assert signatures.check(headers, body, targets, at + 299.0) == targets
    with pytest.raises(SlackRequestRefused, match="the request came before"):
        signatures.check(headers, body, targets, at + 299.0)
    with pytest.raises(SlackRequestRefused, match="not of the last 300 s"):
        SlackSignatures.read_headers([b"%d" % at], [signature], at + 301.0)


def test_messages_about_open_cases_have_buttons(clicker: Clicker) -> None:
    """Of the target's tenants alone, and not of a case that is closed; a bot without buttons has none."""
    row = next(one for one in clicker.site.store.outbox.page().items if one.key == "alert-D0001")

    def shown(*tenants: str) -> dict[str, str]:
        rendered = render_alert(row.payload, "slack", buttons=target_with_buttons(*tenants).buttons)
        assert rendered is not None
        return buttons(json.loads(rendered.body))

    of_case = {"t": "chat", "c": CASE, "r": None}
    assert {name: json.loads(value) for name, value in shown("acme").items()} == dict.fromkeys(
        ("acknowledge", "ask-contain", "ask-close-true", "ask-close-false", "ask-close-expected"), of_case
    )
    assert shown("*") == shown("acme")
    assert shown("globex") == {}
    closed = row.payload.replace(b'"status":"open"', b'"status":"closed"')
    assert closed != row.payload
    rendered = render_alert(closed, "slack", buttons=target_with_buttons("acme").buttons)
    assert rendered is not None
    assert b"actions" not in rendered.body


def test_without_buttons_there_is_no_such_address(site: Any) -> None:
    """401, as for any address without a token."""
    body = click_body("acknowledge", json.dumps({"t": "chat", "c": CASE}))
    assert site.client.post(PATH, content=body, headers=signed_headers(body, int(site.clock.now))).status_code == 401
    assert site.client.post(PATH, content=body, headers=site.auth()).status_code == 404


def test_settings_of_buttons_are_checked() -> None:
    """A user named twice would be two persons; a short secret can be guessed."""
    with pytest.raises(ValueError, match="`signing_secret` must have at least 16 printable"):
        interactions("acme", secret="0" * 15)
    one = interactions("acme")
    with pytest.raises(ValueError, match="`people` names a user twice"):
        msgspec.structs.replace(one, people=one.people * 2).__post_init__()


WHSEC = Secret("whsec_" + "c2VjcmV0" * 6)
