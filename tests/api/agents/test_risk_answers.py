"""The risk answer over real HTTP: shape, freshness, names, tokens."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest

from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook, PolicyRule


def risk(site: Any, agent_id: str, client: str = "gateway", query: str = "") -> httpx2.Response:
    return site.client.get(f"/v1/agents/{quote(agent_id, safe='')}/risk{query}", headers=site.auth(client))


def test_an_answer_has_the_members_of_the_design(site: Any, summary: Any) -> None:
    """The answer of docs/api.md, member by member; never cached by anybody between."""
    site.report([summary()])

    answer = risk(site, "bot")

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "agent_id": "bot",
        "tenant": "acme",
        "issuer": "https://as.example",
        "risk_level": "high",
        "risk_score": 0.87,
        "concern": None,
        "confidence": 0.94,
        "evaluated_at": "2025-11-24T15:59:00.000Z",
        "expires_at": "2025-11-24T16:05:00.000Z",
        "stale": False,
        "reasons": [
            {"code": "c", "feature": "f", "observed": "o", "usual": "u", "contribution": 0.5, "text": "t"},
        ],
        "indicators": [
            {"kind": "network", "value": "AS65537", "status": "new", "at": "2025-11-24T15:58:00.000Z"},
        ],
        "counterfactual": None,
        "pin": None,
        "critical_ancestor": None,
        "token_policy": {
            "allow": True,
            "max_token_lifetime_s": 60,
            "allowed_scopes": None,
            "refresh_allowed": False,
            "step_up": True,
            "revoke": False,
            "step_up_scopes": ["*"],
        },
        "holds_at": [],
        "decision_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
        "model_version": "2026-11-24.1",
        "policy_version": "3",
        "mode": "enforce",
    }


def test_an_agent_never_seen_is_unknown_not_low(site: Any) -> None:
    site.report()

    answer = risk(site, "nobody").json()

    assert (answer["risk_level"], answer["confidence"], answer["decision_id"]) == ("unknown", 0.0, None)
    assert (answer["tenant"], answer["issuer"]) == ("acme", "https://as.example")
    assert answer["evaluated_at"] == "2025-11-24T16:00:00.000Z"
    assert (answer["token_policy"]["allow"], answer["token_policy"]["max_token_lifetime_s"]) == (True, 300)


def test_an_update_replaces_the_answer(site: Any, summary: Any) -> None:
    """The encoded answer that is kept never outlives the row it was made from."""
    site.report([summary()])
    before = risk(site, "bot").json()
    site.report([summary(level=4, risk_score=0.99)])

    after = risk(site, "bot").json()

    assert (before["risk_level"], after["risk_level"], after["risk_score"]) == ("high", "critical", 0.99)
    assert after["token_policy"]["allow"] is False


def test_an_answer_says_what_the_level_is_about_and_policy_may_ask(site: Any, summary: Any) -> None:
    """A rule slows a looping agent down; a hijacked one at the same level gets no token, and its tokens die."""
    slower = LevelTokenPolicy(True, 60, None, False, True, False)
    rule = PolicyRule("looping", concerns=("malfunction",), levels={"critical": slower})
    site.guard.policy_evaluator.policy.book = PolicyBook(rules=[rule], default_mode="enforce")
    site.report(
        [summary("looping", level=4, concern="malfunction"), summary("hijacked", level=4, concern="compromise")]
    )

    answers = [risk(site, agent).json() for agent in ("looping", "hijacked")]

    assert [answer["concern"] for answer in answers] == ["malfunction", "compromise"]
    assert [answer["token_policy"]["allow"] for answer in answers] == [True, False]
    assert [answer["token_policy"]["revoke"] for answer in answers] == [False, True]
    evaluate = site.guard.policy_evaluator.evaluate
    verdicts = [evaluate(AccessRequest("acme", "https://as.example", one))[0] for one in ("looping", "hijacked")]
    assert [verdict.revoke for verdict in verdicts] == [False, True]


@pytest.mark.parametrize(("score", "shown"), [(0.05, 1), (0.0499, 0)])
def test_reasons_are_shown_while_there_is_risk(site: Any, summary: Any, score: float, shown: int) -> None:
    site.report([summary(level=1, risk_score=score)])

    assert len(risk(site, "bot").json()["reasons"]) == len(risk(site, "bot").json()["indicators"]) == shown


def test_answers_turn_stale_when_the_pipeline_falls_silent_and_fresh_when_it_is_back(site: Any, summary: Any) -> None:
    """An idle agent is not stale while the pipeline reports; all are after `staleness_s` (300 s) of silence."""
    site.report([summary()])
    seen = []
    for step, reports in ((299.9, False), (0.1, False), (0.0, True), (299.0, True)):
        site.clock.now += step
        if reports:
            site.report()
        seen.append(risk(site, "bot").json()["stale"])

    assert seen == [False, True, False, False]


def test_answers_turn_stale_when_the_pipeline_lives_but_falls_behind(site: Any, summary: Any) -> None:
    """It reports all the time, but what was logged 300 s ago is not applied yet."""
    site.report([summary()], offset=10, behind=0)
    seen = []
    for step, offset, behind in ((1, 10, 500), (299, 400, 900), (1, 509, 900), (1, 510, 900)):
        site.clock.now += step
        site.report(offset=offset, behind=behind)
        seen.append(risk(site, "bot").json()["stale"])

    assert seen == [False, True, True, True]
    site.report(offset=1300, behind=110)
    assert risk(site, "bot").json()["stale"] is False


def test_answers_are_stale_before_the_pipeline_was_ever_heard(site: Any, summary: Any) -> None:
    """Rows that were read from the store at the start say nothing of what is in the log."""
    site.inside(lambda: site.view.apply([summary()]))

    assert risk(site, "bot").json()["stale"] is True


@pytest.mark.parametrize(
    "agent_id",
    [
        "https://agents.example/bots/7?x=1#y",
        "spiffe://trust.example/ns/prod/sa/bot",
        "a/risk",
        "..hidden",
        "with space%2Fand percent",
        "ünïcödé-代理",
        "x" * 2048,
    ],
)
def test_ids_may_be_anything_that_is_percent_encoded_once(shared: Any, summary: Any, agent_id: str) -> None:
    """Slashes, question marks and percent signs arrive as they were meant."""
    shared.report([summary(agent_id)])

    answer = risk(shared, agent_id)

    assert (answer.status_code, answer.json()["agent_id"], answer.json()["risk_level"]) == (200, agent_id, "high")


def test_slashes_may_stand_as_they_are(shared: Any, summary: Any) -> None:
    shared.report([summary("spiffe://t/ns/a")])

    assert shared.get("/v1/agents/spiffe://t/ns/a/risk").json()["risk_level"] == "high"


def test_an_id_that_is_no_text_is_refused(shared: Any) -> None:
    assert shared.get("/v1/agents/%ff%fe/risk").json()["code"] == "invalid_request"
    assert shared.get("/v1/agents//risk").status_code == 400


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_get_is_answered(shared: Any, method: str) -> None:
    answer = shared.client.request(method, "/v1/agents/bot/risk", headers=shared.auth())

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_an_id_of_several_agents_asks_which(site: Any, summary: Any) -> None:
    """409 lists the candidates among the caller's tenants and what to name; naming it answers."""
    site.report([summary(tenant="acme"), summary(tenant="globex", level=1), summary(tenant="secret")])

    several = risk(site, "bot", "two")

    assert (several.status_code, several.json()["code"], several.json()["name"]) == (409, "ambiguous_agent", ["tenant"])
    assert {found["tenant"] for found in several.json()["candidates"]} == {"acme", "globex"}
    assert risk(site, "bot", "two", "?tenant=globex").json()["risk_level"] == "low"


def test_an_id_at_two_issuers_asks_for_the_issuer(site: Any, summary: Any) -> None:
    site.report([summary(), summary(issuer="https://other.example", level=2)])

    assert risk(site, "bot", query="?tenant=acme").json()["name"] == ["issuer"]
    answer = risk(site, "bot", query=f"?tenant=acme&issuer={quote('https://other.example', safe='')}")
    assert answer.json()["risk_level"] == "medium"


def test_agents_of_other_tenants_are_as_if_they_did_not_exist(site: Any, summary: Any) -> None:
    """Not naming a tenant: unknown. Naming one of others: 403, whether or not the agent exists there."""
    site.report([summary("only-globex", "globex")])

    assert risk(site, "only-globex").json()["risk_level"] == "unknown"
    refused = [risk(site, name, query="?tenant=globex") for name in ("only-globex", "nobody")]
    assert [answer.status_code for answer in refused] == [403, 403]
    assert refused[0].json() == refused[1].json()


@pytest.mark.parametrize("query", ["?tenant=a&tenant=b", "?tenant=%ff", "?" + "&".join(f"a{n}=1" for n in range(20))])
def test_a_query_that_says_two_things_is_refused(shared: Any, query: str) -> None:
    assert risk(shared, "bot", query=query).json()["code"] == "invalid_request"


BAD_TOKENS = {
    "wrong audience": lambda site: site.token(audience="another-service"),
    "expired": lambda site: site.token(lifetime_s=-60),
    "signature of another token": lambda site: site.token().rsplit(".", 1)[0] + "." + site.token().rsplit(".", 1)[1],
    "no token at all": lambda site: "garbage",
}


@pytest.mark.parametrize("path", ["/v1/agents/bot/risk", "/v1/agents"])
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_tokens_get_a_challenge(shared: Any, name: str, path: str) -> None:
    """401, RFC 6750 challenge, problem document; on the bare route and behind it."""
    answer = shared.client.get(path, headers={"authorization": f"Bearer {BAD_TOKENS[name](shared)}"})

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["type"] == "urn:trustwatch:problem:invalid_token"


def test_many_questions_are_answered_in_their_order(site: Any, summary: Any) -> None:
    site.report([summary(), summary(tenant="globex"), summary("solo", "globex", level=1)])
    agents = [{"agent_id": "solo"}, {"agent_id": "bot"}, {"agent_id": "bot", "tenant": "nsa"}, {"agent_id": "new"}]

    answer = site.client.post("/v1/risk/query", json={"agents": agents}, headers=site.auth("two"))

    answers = answer.json()["answers"]
    assert answer.status_code == 200
    assert (answers[0]["risk_level"], answers[3]["risk_level"]) == ("low", "unknown")
    assert [answers[place]["problem"]["status"] for place in (1, 2)] == [409, 403]


def test_a_question_of_many_is_answered_as_if_it_were_asked_alone(site: Any, summary: Any) -> None:
    site.report([summary(f"bot-{number}") for number in range(1000)])
    agents = [{"agent_id": f"bot-{number}"} for number in range(1000)]

    answers = site.client.post("/v1/risk/query", json={"agents": agents}, headers=site.auth()).json()["answers"]
    refused = site.client.post("/v1/risk/query", json={"agents": [*agents, agents[0]]}, headers=site.auth())

    assert answers[617] == risk(site, "bot-617").json()
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.agents")


def test_the_route_behind_answers_the_same(site: Any, summary: Any) -> None:
    """FastAPI's own route, which documents the bare one, gives the same bytes."""
    site.report([summary("spiffe://t/a")])

    async def ask(app: Any) -> bytes:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/v1/agents/spiffe%3A%2F%2Ft%2Fa/risk", headers=site.auth())
            return answer.content

    assert site.wait(ask(site.app)) == site.wait(ask(site.app.app))


def test_the_example_has_the_members_of_a_real_answer(shared: Any, summary: Any) -> None:
    shared.report([summary()])

    document = shared.client.get("/openapi.json").json()

    assert set(document["components"]["schemas"]["RiskOut"]["examples"][0]) == set(risk(shared, "bot").json())
    assert msgspec.json.encode(document)
