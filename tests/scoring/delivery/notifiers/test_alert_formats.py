"""What each product is sent: golden bodies, limits, escaping, and the schema of OCSF by somebody else's validator."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_emitter import InvalidFindingError, models, validate
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from pydantic import ValidationError

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.delivery.notifiers.alert_events import DRIFT_ALERT_TYPE, build_case_row, with_console_link
from trustwatch.scoring.delivery.notifiers.alert_formats import ALERT_FORMATS, AlertFormat, escape_markup, render_alert
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.cases import Case, CaseAgent, CaseEntry
from trustwatch.scoring.records.decisions import RiskReason

from ....support.alert_receiver import ALERTS, ROUTING_KEY, approval, change

GOLDEN = Path(__file__).with_name("golden_alerts")
SCHEMAS = ("1.5.0", "1.6.0", "1.7.0", "1.8.0")
HOSTILE = "<!channel> <https://evil.example|here> @here *bold* _it_ ~no~ `code` & co\n> quote \u202e [x](y)"

names = st.one_of(
    st.text(st.sampled_from("<>&*`_~|@#[]()!\n\r\t\u202e\u200b\x1b aé漢𐍈"), min_size=1, max_size=80),
    st.text(min_size=1, max_size=300),
    st.integers(0, 2048 - 24).map(lambda n: "https://agents.example/?" + "&" * n),
    st.integers(2000, 2048).map(lambda n: ("https://agents.example/" + "a<b" * 700)[:n]),
)
plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(
    [
        "agent_id",
        "tenant",
        "issuer",
        "reasons",
        "indicators",
        "reason",
        "links",
        "risk_level",
        "previous_level",
        "risk_score",
        "scopes",
        "version",
        "concern",
        "confidence",
        "source",
        "kind",
        "suppressed_before",
        "agent_type",
        "message",
        "target",
        "model_version",
    ]
)


def body(payload: bytes, wanted: AlertFormat, suppressed_before: int = 0) -> Any:
    """What would be posted, decoded; None = nothing."""
    rendered = render_alert(payload, wanted, suppressed_before, ROUTING_KEY)
    return None if rendered is None else json.loads(rendered.body)


def about(name: str, reason: str = "because") -> bytes:
    agent = AgentName(IdentityHasher().agent_key("acme", "https://as", name), "acme", "https://as", name)
    reasons = (RiskReason("c", "f", "o", "u", 0.5, reason),)
    return change(RiskLevel.LOW, RiskLevel.HIGH, agent=agent, agent_type=name, reasons=reasons)


@pytest.mark.parametrize("name", ALERTS)
@pytest.mark.parametrize("wanted", [name for name in ALERT_FORMATS if name != "cloudevents"])
def test_golden_bodies(wanted: AlertFormat, name: str) -> None:
    """Each alert in each format is what the files show, to the letter. They are what people build upon."""
    golden = (GOLDEN / f"{name}.{wanted}.json").read_text(encoding="utf-8").replace("$VERSION", version("trustwatch"))

    assert body(ALERTS[name], wanted, 2) == json.loads(golden)


def console_page(name: str) -> str:
    """Where the first link of an alert leads when there is a console at /console."""
    rendered = render_alert(ALERTS[name], "cloudevents", 0, ROUTING_KEY, "https://trust.example/console")
    assert rendered is not None
    links = json.loads(rendered.body)["data"]["links"]
    assert next(iter(links)) == "console"
    return str(links["console"]).removeprefix("https://trust.example/console/")


def test_every_alert_links_to_its_page_of_the_console() -> None:
    """A decision's to the decision; without a console no link is made up, and people's formats show it first."""
    pages = {name: console_page(name) for name in ALERTS}
    assert pages["rise"] == pages["fall"] == "decisions/01KAV9FT00"
    assert (pages["approval"], pages["test"], pages["silence"]) == ("approvals", "alerts", "")
    drift = with_console_link({"type": DRIFT_ALERT_TYPE, "data": {"tenant": "acme"}}, "https://trust.example/console")
    assert drift["data"]["links"] == {"console": "https://trust.example/console/models"}
    for odd in ({"type": 7, "data": {"links": 3}}, {"data": []}, {}):  # what is no alert of ours does no harm
        assert with_console_link(odd, "https://x/console").get("type") == odd.get("type")
    assert "console" not in body(ALERTS["rise"], "cloudevents")["data"]["links"]
    shown = render_alert(ALERTS["rise"], "pagerduty", 0, ROUTING_KEY, "https://trust.example/console")
    assert shown is not None
    page = json.loads(shown.body)
    assert page["client_url"] == page["links"][0]["href"] == "https://trust.example/console/decisions/01KAV9FT00"


def test_of_new_things_the_latest_come_first_and_few_are_shown() -> None:
    """A key that was rotated in the morning stands behind the thief of the evening; names are text of one line."""
    morning, evening = "2026-11-28T00:36:31.000Z", "2026-11-28T18:03:58.000Z"
    told = [
        *({"kind": "session", "value": f"s-{n}", "status": "not_tracked", "at": evening} for n in range(9)),
        {"kind": "credential", "value": "k-2", "status": "new", "at": morning},
        {"kind": "network", "value": "AS65537\n<!channel>", "status": "new", "at": evening},
    ]
    payload = change(RiskLevel.LOW, RiskLevel.HIGH, evidence={"indicators": told})
    (section,) = (one for one in body(payload, "slack")["blocks"] if "AS65537" in str(one))
    shown = [field["text"] for field in section["fields"]]
    assert shown[:2] == ["Network: AS65537 <!channel> (new)", "Credential: k-2 (new)"] and len(shown) == 10
    check_slack(body(payload, "slack"))
    assert faults(body(payload, "ocsf")) == []


def test_every_golden_body_is_of_an_alert() -> None:
    """No file is left over from an alert or format that is gone."""
    wanted = {f"{name}.{kind}.json" for name in ALERTS for kind in ALERT_FORMATS if kind != "cloudevents"}

    assert {path.name for path in GOLDEN.iterdir()} == wanted


def slack_texts(value: Any) -> list[dict[str, Any]]:
    """Text objects anywhere in blocks."""
    if isinstance(value, list):
        return [found for item in value for found in slack_texts(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if value.get("type") in ("plain_text", "mrkdwn") else []
    return own + [found for item in value.values() for found in slack_texts(item)]


def check_slack(message: Any) -> None:
    """Slack's limits, and mark-up in links alone, which lead to our service."""
    assert 0 < len(message["text"]) <= 4_000
    assert 0 < len(message["blocks"]) <= 50
    for block in message["blocks"]:
        fields = block.get("fields", [])
        assert len(fields) <= 10
        assert all(len(field["text"]) <= 2_000 for field in fields)
        if "text" in block:
            assert len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3_000)
        assert fields or "text" in block
    for item in slack_texts(message["blocks"]):
        assert item["text"]
        if item["type"] == "mrkdwn":
            assert all(part.startswith("<https://trust.example/") for part in item["text"].split(" · "))
    assert "<" not in message["text"] and ">" not in message["text"]
    assert re.sub(r"&(amp|lt|gt);", "", message["text"]).count("&") == 0
    assert not re.search(r"[*_~`@#\[\]!|\\](?!\u200b)", message["text"])


@given(names, st.text(max_size=4_000))
@settings(max_examples=150, deadline=None)
def test_names_do_no_harm_in_chats(name: str, reason: str) -> None:
    """Whatever agents call themselves and reasons quote, the message fits, mentions nobody and links nowhere else."""
    check_slack(body(about(name, reason), "slack", 3))


def test_a_hostile_name_in_a_chat() -> None:
    """By example: shown as it is where nothing is formatted, escaped where it could be; one line in any case."""
    message = body(about(HOSTILE), "slack")

    check_slack(message)
    assert "&lt;!\u200bchannel&gt;" in message["text"] and "@\u200bhere" in message["text"]
    field = message["blocks"][1]["fields"][0]
    assert (field["type"], "\n" in field["text"], "\u202e" in field["text"]) == ("plain_text", False, False)
    assert "<!channel> <https://evil.example|here>" in field["text"]


@given(st.text(max_size=200))
def test_escape_can_be_undone(value: str) -> None:
    """Nothing is lost but the invisible marks, so people read the name as it is."""
    shown = escape_markup(value)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        shown = shown.replace(entity, char)

    assert shown.replace("\u200b", "") == value.replace("\u200b", "")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://u:p@h.example/",
        "https://h.example/a|b",
        "https://h.example/>x",
        "http:///x",
        "//h.example",
        "https://h.example/\n",
        "https://[::1",
        "https://h.example/é",
    ],
)
@pytest.mark.parametrize("wanted", ["slack", "pagerduty"])
def test_links_that_would_trick_people_are_left_out(url: str, wanted: AlertFormat) -> None:
    """Nobody is given a link that runs code, hides its host or breaks out of its place."""
    told = body(approval(links={"evil": url, "good": "https://trust.example/a"}), wanted)
    shown = json.dumps([told.get("blocks"), told.get("links")], ensure_ascii=False)

    assert "https://trust.example/a" in shown
    assert "vil" not in shown


@given(names, names, names)
@settings(max_examples=100, deadline=None)
def test_pagerduty_limits(tenant: str, issuer: str, name: str) -> None:
    """The key is short, the same for each alert about an agent, and another for another; texts fit."""
    agents = [
        AgentName(1, tenant, issuer, name),
        AgentName(1, issuer, tenant, name),
        AgentName(1, tenant, issuer + name, ""),
    ]
    rises = [body(change(RiskLevel.LOW, RiskLevel.HIGH, agent=agent), "pagerduty") for agent in agents]
    end = body(change(RiskLevel.HIGH, RiskLevel.LOW, agent=agents[0]), "pagerduty")

    assert end == {"routing_key": ROUTING_KEY, "dedup_key": rises[0]["dedup_key"], "event_action": "resolve"}
    identities = [(agent.tenant, agent.issuer, agent.agent_id) for agent in agents]
    assert len({one["dedup_key"] for one in rises}) == len(set(identities))
    for one in rises:
        assert len(one["dedup_key"]) <= 255
        assert 0 < len(one["payload"]["summary"]) <= 1_024
        assert 0 < len(one["payload"]["source"]) <= 255


def test_pagerduty_details_are_bounded() -> None:
    """A body that is refused for its length would be an alert that never arrives."""
    huge = tuple(RiskReason("c", "f", "o", "u", 0.5, "x" * 2_000) for _ in range(400))
    payload = change(RiskLevel.LOW, RiskLevel.HIGH, reasons=huge)
    rendered = render_alert(payload, "pagerduty", 0, ROUTING_KEY)

    assert len(payload) > 512 * 1024
    assert rendered is not None and len(rendered.body) < 300 * 1024
    assert json.loads(rendered.body)["payload"]["custom_details"]["Tenant"] == "acme"


@cache
def validator(schema: str) -> Draft202012Validator:
    """Validator of Detection Findings, from the schema as OCSF publishes it; unknown members are errors."""
    source = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=schema))
    made = source.get_class_schema(source.lookup_class_name_from_uid(2004), [])
    assert made["additionalProperties"] is False
    return Draft202012Validator(made)


def faults(finding: Any, schema: str = "1.5.0") -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(finding)]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", ALERTS)
def test_ocsf_is_valid_in_each_version(name: str, schema: str) -> None:
    """The same body fits the schema of every version that knows the class so."""
    assert faults(body(ALERTS[name], "ocsf", 1), schema) == []


def test_the_validator_bites() -> None:
    """It does refuse what is missing, unknown or of another type."""
    finding = body(ALERTS["rise"], "ocsf")
    for wrong in ({"finding_info": {}}, {"new": 1}, {"severity_id": "high"}, {"observables": [{"value": "x"}]}):
        assert faults(finding | wrong)


@pytest.mark.parametrize("name", ALERTS)
def test_ocsf_is_valid_to_another_validator(name: str) -> None:
    """HackerOne's: its own types, and rules that a schema does not say. It keeps the agent where it stands."""
    finding = body(ALERTS[name], "ocsf", 1)
    read = validate(models.DetectionFinding.model_validate(finding))

    kept = read.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert kept["unmapped"].get("ai_agent") == finding["unmapped"].get("ai_agent")


def test_the_other_validator_bites() -> None:
    """It refuses another class, a type that is not that of the activity, and what the schema refuses."""
    finding = body(ALERTS["rise"], "ocsf")
    for wrong in ({"class_name": "Finding"}, {"type_uid": 200499}, {"finding_info": {}}, {"severity_id": 7}):
        with pytest.raises((InvalidFindingError, ValidationError)):
            validate(models.DetectionFinding.model_validate(finding | wrong))


@given(names)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ocsf_is_valid_for_any_name(name: str) -> None:
    """The agent is a resource of kind `ai_agent`, and the object of OCSF 1.9, whose uid is the id exactly."""
    finding = body(about(name), "ocsf")

    assert faults(finding) == []
    assert [(one["type"], one["uid"]) for one in finding["resources"]] == [("ai_agent", name)]
    agent = {"uid": name, "name": name, "type_id": 0, "type": "Unknown"}
    assert finding["unmapped"]["ai_agent"] == agent
    assert finding["observables"][0]["value"] == name


def test_ocsf_follows_a_finding_from_its_beginning_to_its_end() -> None:
    """One finding per agent: created, updated, closed."""
    steps = [(1, 3), (3, 4), (4, 2), (2, 1), (1, 2)]
    told = [body(change(RiskLevel(before), RiskLevel(after)), "ocsf") for before, after in steps]

    assert [one["activity_id"] for one in told] == [1, 2, 2, 3, 1]
    assert [one["type_uid"] for one in told] == [200401, 200402, 200402, 200403, 200401]
    assert [one["is_alert"] for one in told] == [True, True, False, False, True]
    assert [one["severity_id"] for one in told] == [4, 5, 3, 2, 3]
    assert len({one["finding_info"]["uid"] for one in told}) == 1


@given(st.dictionaries(members, plain_json, max_size=10), st.sampled_from([*ALERTS]), plain_json)
@settings(max_examples=300, deadline=None)
def test_no_content_makes_rendering_fail(data: dict[str, Any], name: str, subject: Any) -> None:
    """Members of any kind, or missing: each format still says something that fits."""
    event = msgspec.json.decode(ALERTS[name]) | {"data": data, "subject": subject}
    payload = msgspec.json.encode(event)

    check_slack_size(body(payload, "slack"))
    assert body(payload, "ocsf")["class_uid"] == 2004
    paged = body(payload, "pagerduty")
    assert paged is None or paged["event_action"] in ("trigger", "resolve")
    assert body(payload, "cloudevents")["data"] == data | {"suppressed_before": 0}


def check_slack_size(message: Any) -> None:
    assert message["text"] and message["blocks"][0]["text"]["text"]


@given(plain_json)
def test_an_event_without_data_is_told_too(data: Any) -> None:
    """`data` may be of any kind in a CloudEvent."""
    payload = msgspec.json.encode({"type": "io.example.other", "data": data})

    for wanted in ALERT_FORMATS:
        assert body(payload, wanted)


def in_case(before: RiskLevel, after: RiskLevel, above_low: int = 0, **members: Any) -> bytes:
    """An alert of a case, as routing leaves it in the outbox."""
    event = json.loads(change(before, after))
    of_case = {"case_id": "case-1", "status": "open", "risk_level": "critical", "agents": 3, "tie": None}
    event["data"]["case"] = of_case | {"agents_above_low": above_low, **members}
    return msgspec.json.encode(event)


def of_person(action: str, status: str, **members: Any) -> bytes:
    """An alert of what a person did to a case."""
    case = Case("case-1", "acme", status, "", 4, "D1", 1, 2, 2, 0, 0, 0, 0, "ann", 0, "", 1, 1, 3)
    entry = CaseEntry("case-1", 0, 1_764_000_000_000, "ann", action, "<@U1> done")
    name = AgentName(1, "acme", "https://as", "a")
    agents = [CaseAgent("case-1", name, "X", 1, 4, 4, 1, 1, "D1", "first", "")]
    row = build_case_row(msgspec.structs.replace(case, **members), entry, agents, "https://trust.example")
    return row.payload


def test_pagerduty_keeps_one_incident_a_case() -> None:
    """It ends when nobody of the case is above low, or a person closes it."""
    first, last = in_case(RiskLevel.LOW, RiskLevel.HIGH, 1), in_case(RiskLevel.HIGH, RiskLevel.LOW)
    others = in_case(RiskLevel.HIGH, RiskLevel.LOW, 2)
    bodies = [body(one, "pagerduty") for one in (first, last, of_person("acknowledged", "acknowledged"))]
    bodies += [
        body(of_person("closed", "closed", verdict="false"), "pagerduty"),
        body(of_person("reopened", "open"), "pagerduty"),
    ]
    assert [one["event_action"] for one in bodies] == ["trigger", "resolve", "acknowledge", "resolve", "trigger"]
    assert len({one["dedup_key"] for one in bodies}) == 1
    assert body(others, "pagerduty") is None
    assert body(of_person("contained", "contained"), "pagerduty") is None
    alone = body(change(RiskLevel.LOW, RiskLevel.HIGH), "pagerduty")
    assert alone["dedup_key"] != bodies[0]["dedup_key"]


def test_chats_are_told_what_belongs_together_and_what_people_did() -> None:
    """In words that format nothing; OCSF has a finding for each agent, and none for a case."""
    alert = in_case(RiskLevel.LOW, RiskLevel.HIGH, 3, tie="the same new network AS65537")
    facts = next(block for block in body(alert, "slack")["blocks"] if "fields" in block)
    fields = [one["text"] for one in facts["fields"]]
    assert "Case: 3 agents, highest critical; the same new network AS65537" in fields
    assert len(fields) <= 10
    closed = body(of_person("closed", "closed", verdict="false"), "slack")
    assert "Case closed as false: 1 agent, highest critical" in closed["blocks"][0]["text"]["text"]
    assert "<@U1>" not in closed["text"]
    assert body(of_person("closed", "closed"), "ocsf") is None
    assert (
        body(alert, "ocsf")["finding_info"]["uid"]
        == body(change(RiskLevel.LOW, RiskLevel.HIGH), "ocsf")["finding_info"]["uid"]
    )


def test_an_alert_of_a_case_leads_to_its_page() -> None:
    """That is where a person acts."""
    for payload in (in_case(RiskLevel.LOW, RiskLevel.HIGH), of_person("closed", "closed")):
        linked = with_console_link(json.loads(payload), "https://trust.example/console")
        assert linked["data"]["links"]["console"] == "https://trust.example/console/cases/case-1"
        chat = render_alert(payload, "slack", console="https://trust.example/console")
        assert chat is not None
        shown = json.loads(chat.body)["blocks"][-1]["text"]["text"]
        assert shown.startswith("<https://trust.example/console/cases/case-1|")
