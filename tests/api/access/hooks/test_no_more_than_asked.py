"""Whatever the policy, the level and the request: no answer grants more than asked for or a longer life than allowed.

Answers are read as the product reads them, and held against what the policy says by itself, not through `judge`.
"""

from __future__ import annotations

import copy
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook, PolicyTable
from trustwatch.scoring.records.agents import RiskLevel

SCOPES = ["read", "list", "notes:write", "notes:delete", "admin", "openid"]
PATTERNS = ["*", "*write*", "*delete*", "read", "notes:*", "nothing"]
BODIES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "bodies").glob("*.json")}


class Token(NamedTuple):
    """What a product issues after an answer. Lifetimes in s; None = it is not the hook's to say."""

    scopes: set[str]
    lifetime_s: int | None


seconds = st.sampled_from([60, 299, 300, 301, 900, 3600, 86_400])
mostly = st.sampled_from([True, True, True, False])
policies = st.builds(
    LevelTokenPolicy,
    allow=mostly,
    max_token_lifetime_s=seconds | st.integers(1, 90_000),
    allowed_scopes=st.none() | st.lists(st.sampled_from(PATTERNS), max_size=3).map(tuple),
    refresh_allowed=mostly,
    step_up=st.booleans(),
    revoke=st.booleans(),
    step_up_scopes=st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple),
)
wishes = st.lists(st.sampled_from(SCOPES), unique=True, max_size=5)


def hydra(desk: Any, scopes: list[str], refresh: bool, lifetime_s: int) -> Token | None:
    request = copy.deepcopy(BODIES["hydra_token"])
    grant = ["refresh_token" if refresh else "client_credentials"]
    request["request"].update(
        client_id="bot",
        granted_scopes=scopes,
        requested_scopes=scopes,
        grant_types=grant,
        payload={"grant_type": grant},
    )
    answer = desk.ask("hydra", request)
    return None if answer.status_code == 403 else Token(set(scopes), None)


def okta(desk: Any, scopes: list[str], refresh: bool, lifetime_s: int) -> Token | None:
    request = copy.deepcopy(BODIES["okta"])
    request["data"]["access"]["scopes"] = {scope: {} for scope in scopes}
    request["data"]["access"]["token"]["lifetime"]["expiration"] = lifetime_s
    request["data"]["context"]["protocol"]["request"] = {
        "grant_type": "refresh_token" if refresh else "client_credentials",
        "scope": " ".join(scopes),
    }
    answer = desk.ask("okta", request)
    if answer.status_code == 204:
        return Token(set(scopes), lifetime_s)
    if "error" in answer.json():
        return None
    for command in answer.json()["commands"]:
        for operation in command["value"]:
            if operation["path"] == "/token/lifetime/expiration":
                assert 300 <= operation["value"] <= 86_400
                lifetime_s = operation["value"]
    return Token(set(scopes), lifetime_s)


def wso2(desk: Any, scopes: list[str], refresh: bool, lifetime_s: int) -> Token | None:
    request = copy.deepcopy(BODIES["wso2"])
    event = request["event"]
    event["request"].update(scopes=scopes, grantType="refresh_token" if refresh else "client_credentials")
    event["accessToken"]["scopes"] = scopes
    event["accessToken"]["claims"][2]["value"] = lifetime_s
    answer = desk.ask("wso2", request).json()
    if answer["actionStatus"] != "SUCCESS":
        return None
    left = list(scopes)
    for operation in answer["operations"]:
        if operation["path"] == "/accessToken/claims/expires_in":
            lifetime_s = operation["value"]
            assert lifetime_s > 0
        if operation["op"] == "remove":
            left.remove(scopes[int(operation["path"].rpartition("/")[2])])
    return Token(set(left), lifetime_s)


def zitadel(desk: Any, scopes: list[str], refresh: bool, lifetime_s: int) -> Token | None:
    answer = desk.ask("zitadel", BODIES["zitadel"]).json()
    return None if "forwardedStatusCode" in answer else Token(set(), None)


def authzen(desk: Any, scopes: list[str], refresh: bool, lifetime_s: int) -> Token | None:
    gate = f"issue:access_token:{'refresh_token' if refresh else 'client_credentials'}"
    answer = desk.evaluate(
        {
            "subject": {"type": "client", "id": "bot"},
            "resource": {"type": "audience", "id": "https://api.example"},
            "evaluations": [{"action": {"name": name}} for name in (gate, *scopes)],
        }
    ).json()["evaluations"]
    issuance = answer[0].get("context", {}).get("issuance", {})
    lifetime_s = min(lifetime_s, issuance.get("token_lifetime", lifetime_s))
    permitted = {scope for scope, one in zip(scopes, answer[1:], strict=True) if one["decision"]}
    assert permitted <= set(issuance.get("granted_scope", " ".join(scopes)).split()) or not answer[0]["decision"]
    return Token(permitted, lifetime_s) if answer[0]["decision"] and lifetime_s else None


PRODUCTS = {"hydra": hydra, "okta": okta, "wso2": wso2, "zitadel": zitadel, "authzen": authzen}


@pytest.fixture
def every(make_desk: Any) -> Any:
    return make_desk(*PRODUCTS)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policy=policies,
    level=st.sampled_from([*RiskLevel]),
    scopes=wishes,
    refresh=st.booleans(),
    lifetime_s=seconds.filter(lambda one: one >= 300) | st.integers(300, 86_400),
    enforce=mostly,
)
def test_no_answer_grants_more(
    every: Any,
    policy: LevelTokenPolicy,
    level: RiskLevel,
    scopes: list[str],
    refresh: bool,
    lifetime_s: int,
    enforce: bool,
) -> None:
    """For every product: nothing beyond request and policy; in shadow exactly what was asked for."""
    table = PolicyTable(dict.fromkeys(RiskLevel, policy), "3")
    every.policy.book = PolicyBook(table, modes={"acme": "enforce" if enforce else "shadow"})
    every.level(level)
    for name, issue in PRODUCTS.items():
        token = issue(every, scopes, refresh, lifetime_s)

        if not enforce:
            wanted = set() if name == "zitadel" else set(scopes)
            assert token is not None, name
            assert token.scopes == wanted, name
            assert token.lifetime_s in (None, lifetime_s), name
            continue
        if token is None:
            continue
        assert policy.allow, name
        assert policy.refresh_allowed or not refresh or name == "zitadel", name
        assert token.scopes <= set(scopes), name
        for scope in token.scopes:
            assert policy.allowed_scopes is None or any(fnmatchcase(scope, one) for one in policy.allowed_scopes), name
            assert not policy.step_up or not any(fnmatchcase(scope, one) for one in policy.step_up_scopes), name
        if token.lifetime_s is not None:
            assert token.lifetime_s <= min(lifetime_s, policy.max_token_lifetime_s), name
