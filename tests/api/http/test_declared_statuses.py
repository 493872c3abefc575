"""The OpenAPI document declares every status that is answered to what fits an operation, and to what does not.

Requests are made by schemathesis, and sent with tokens of every scope, with none, and with what is no token. Each night
there are more of them (`TRUSTWATCH_API_CASES`, of an operation), other ones each time, and every caller sends each.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.scoring.records.agents import AgentSummary

STREAMS = ("/v1/decisions/stream",)
"""Operations whose answer has no end."""

EXAMPLES = int(os.environ.get("TRUSTWATCH_API_CASES", "6"))
LONG = EXAMPLES > 6
SECONDS_A_CASE = 2
NAMED = {"agent_id": ("twin", "bot", "nobody"), "tenant": ("acme", "globex"), "issuer": ("https://as.example",)}
"""Names of which there are agents, beside those that are made up."""


@pytest.fixture(scope="module")
def asked(shared: Any, summary: Callable[..., AgentSummary]) -> Any:
    shared.report([summary(), summary("twin"), summary("twin", "globex")])
    return shared


@pytest.fixture(scope="module")
def document(shared: Any) -> dict[str, Any]:
    found: dict[str, Any] = shared.client.get("/openapi.json").json()
    return found


def callers(site: Any) -> list[dict[str, str]]:
    """Headers of callers that may everything, one thing, nothing; and of nobody."""
    scopes = [site.auth("all", scope) for scope in ALL_SCOPES]
    others = [site.auth("all", "ssf.manage"), site.auth("gateway"), site.auth("two"), site.auth("nobody")]
    return [site.auth("all"), *scopes, *others, {}, {"authorization": "Bearer"}, {"host": "rebound.example"}]


def requests_of(operation: Any) -> Any:
    positive = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    return positive | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


def with_known_names(case: Any, number: int) -> None:
    if number % 2:
        return
    for place in (case.path_parameters, case.query):
        for name, values in NAMED.items():
            if place and name in place:
                place[name] = values[number // 2 % len(values)]


def statuses_of(site: Any, operation: Any) -> dict[str, str]:
    """Every status that is answered, with the beginning of one answer."""
    found: dict[str, str] = {}
    headers, numbers = itertools.cycle(callers(site)), itertools.count()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=not LONG,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(requests_of(operation))
    def ask(case: Any) -> None:
        with_known_names(case, next(numbers))
        for sent in callers(site) if LONG else (site.auth("all"), *itertools.islice(headers, 4)):
            answer = case.call(base_url=site.url, headers=dict(sent), timeout=30.0)
            found[str(answer.status_code)] = f"{case.method} {case.formatted_path}: {answer.content[:200]!r}"

    ask()
    return found


def operations(document: dict[str, Any]) -> Iterator[Any]:
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        if operation.path not in STREAMS:
            yield operation


@pytest.mark.timeout(300 + 60 * SECONDS_A_CASE * (EXAMPLES - 6))
def test_every_status_that_is_answered_is_declared(asked: Any, document: dict[str, Any]) -> None:
    undeclared: dict[str, dict[str, str]] = {}
    checked = 0
    for operation in operations(document):
        declared = document["paths"][operation.path][operation.method.lower()]["responses"]
        found = statuses_of(asked, operation)
        if unknown := {status: text for status, text in found.items() if status not in declared}:
            undeclared[operation.label] = unknown
        checked += 1

    assert not undeclared
    assert checked >= 40


def test_names_may_hold_line_feeds(asked: Any, document: dict[str, Any], summary: Callable[..., AgentSummary]) -> None:
    """Every operation of an agent or a principal is found for such a name, too: it can be pinned like any other."""
    asked.report([summary("two\nlines")])
    named = {path: item for path, item in document["paths"].items() if re.match(r"/v1/(agents|principals)/{", path)}
    unrouted = asked.client.get("/v1/nowhere", headers=asked.auth("all")).json()["detail"]
    answers = {
        path: asked.client.request(method, re.sub(r"{\w+}", "two%0Alines", path), headers=asked.auth("all"), json={})
        for path, item in named.items()
        for method in item
    }

    assert len(answers) >= 8
    assert [
        path for path, answer in answers.items() if answer.status_code in (404, 405) and unrouted in answer.text
    ] == []
    assert answers["/v1/agents/{agent_id}/risk"].json()["agent_id"] == "two\nlines"
    pin = {"level": "high", "why": "a reason"}
    pinned = asked.client.post("/v1/agents/two%0Alines/pin", headers=asked.auth("all"), json=pin)
    assert pinned.status_code == 201, pinned.text
