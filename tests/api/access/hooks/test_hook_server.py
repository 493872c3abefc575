"""What holds for every hook: who may ask, what becomes of wrong and too large bodies, and of faults of ours."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from trustwatch.api.access import approval_workflow
from trustwatch.api.access.hooks.hook_adapter import MAX_HOOK_BODY_BYTES
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.policy.book import PolicyBook, PolicyRule, PolicyTable
from trustwatch.scoring.records.agents import RiskLevel


class Words(NamedTuple):
    """How a product says it."""

    body: str
    agent: str
    allowed: tuple[int, Any]
    undecided: tuple[int, Any]


PRODUCTS = {
    "hydra": Words("hydra_token", "app-client", (204, None), (403, {"error": "access_denied", "reason": "undecided"})),
    "okta": Words("okta", "bot", (204, None), (200, {"error": {"errorSummary": "access denied: undecided"}})),
    "wso2": Words(
        "wso2",
        "bot",
        (200, {"actionStatus": "SUCCESS", "operations": []}),
        (200, {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": "undecided"}),
    ),
    "zitadel": Words(
        "zitadel",
        "bot",
        (200, {}),
        (200, {"forwardedStatusCode": 403, "forwardedErrorMessage": "access denied: undecided"}),
    ),
}
SECRET = "a secret of 24 letters!!"


def said(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json() if answer.content else None


@pytest.fixture(params=PRODUCTS)
def product(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def break_view(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*_: str) -> None:
        raise RuntimeError("the view is broken: secret-detail")

    monkeypatch.setattr(desk.view, "get", boom)


@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_a_fault_of_ours_is_answered_as_the_settings_say(
    make_desk: Any,
    make_hook: Any,
    body: Any,
    product: str,
    on_failure: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Counted, logged without the request, told as an audit event; nothing of it leaves."""
    words = PRODUCTS[product]
    desk = make_desk(make_hook(product, on_failure=on_failure))
    break_view(desk, monkeypatch)
    answer = desk.ask(product, body(words.body))

    assert said(answer) == (words.allowed if on_failure == "open" else words.undecided)
    assert desk.metric(f'trustwatch_verdict_failures_total{{fails="{on_failure}",via="{product}"}}') == 1
    (event,) = desk.events()
    assert event["agent"]["id"] == words.agent
    assert event["outcome"] == ("success" if on_failure == "open" else "denied")
    assert event["attributes"]["verdict"] == "undecided"
    log = "".join(capsys.readouterr())
    assert "hook_failed" in log
    assert SECRET not in log
    assert "198.51.100.7" not in log


def test_in_shadow_nothing_is_refused_whatever_fails(
    make_desk: Any, body: Any, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = PRODUCTS[product]
    desk = make_desk(product, mode="shadow")
    break_view(desk, monkeypatch)

    assert said(desk.ask(product, body(words.body))) == words.allowed
    assert said(desk.ask(product, b"[1]")) == words.allowed
    assert desk.guard.failure_counts[product, "open"] == 2


def test_a_rule_that_enforces_keeps_the_door_closed(
    make_desk: Any, body: Any, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant in shadow with one agent type in enforce: which one asks is not known when the view is broken."""
    rule = PolicyRule("payers", tenants=("acme",), agent_types=("Payer",), mode="enforce")
    desk = make_desk(product, book=PolicyBook(PolicyTable(version="3"), [rule]))
    break_view(desk, monkeypatch)

    assert said(desk.ask(product, body(PRODUCTS[product].body))) == PRODUCTS[product].undecided


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"a":"\\ud800"}']
)
def test_a_body_that_says_nothing_is_undecided(make_desk: Any, make_hook: Any, product: str, content: bytes) -> None:
    """Never a 5xx, which products take for an outage. `on_failure` is for what no client can bring about."""
    for on_failure in ("closed", "open"):
        desk = make_desk(make_hook(product, on_failure=on_failure))
        opens = on_failure == "open" and content in (b"[]", b"null", b'"text"', b"{}")

        assert said(desk.ask(product, content)) == (PRODUCTS[product].allowed if opens else PRODUCTS[product].undecided)
        assert desk.guard.failure_counts == {(product, "open" if opens else "closed"): 1}


def strange(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: strange(member) for name, member in value.items()} | {"unheard_of": {"x": 1}}
    return value


def test_members_that_nobody_knows_are_no_error(make_desk: Any, body: Any, product: str) -> None:
    words = PRODUCTS[product]
    desk = make_desk(product)
    plain = desk.ask(product, body(words.body))
    more = desk.ask(product, strange(body(words.body)))

    assert (more.status_code, plain.status_code) == (200, 200)
    assert desk.guard.failure_counts.total() == 0


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, member in inner for place in places(member, (*path, name)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new
    return None


@pytest.mark.parametrize("wrong", [None, 7, -1.5, True, "text", [], {}, [None, 7, {}], {"x": [1]}, "x" * 3000])
def test_members_of_the_wrong_type_are_answered_in_the_products_words(
    make_desk: Any, body: Any, product: str, wrong: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every place of the request, one at a time: allowed or undecided, never an error of HTTP, never a crash."""
    words = PRODUCTS[product]
    desk = make_desk(product)
    for path in places(body(words.body)):
        request = body(words.body)
        request = put(request, path, wrong) if not path else (put(request, path, wrong), request)[1]
        answer = desk.ask(product, json.dumps(request).encode())

        assert answer.status_code in (200, 204, 403), (path, wrong, answer.text)
        if answer.status_code == 403:
            assert answer.json()["reason"] == "undecided", (path, wrong)
    assert "hook_failed" not in "".join(capsys.readouterr())


def test_too_large_bodies_do_not_open_the_door(make_desk: Any, make_hook: Any, body: Any, product: str) -> None:
    """A client can make a request large, so `open` does not hold for it. What is signed cannot be believed unread."""
    words = PRODUCTS[product]
    desk = make_desk(make_hook(product, on_failure="open"))
    request = body(words.body) | {"pad": "x" * MAX_HOOK_BODY_BYTES}
    answer = desk.ask(product, request)

    assert said(answer) == words.undecided if product != "zitadel" else answer.status_code == 401


def test_too_many_scopes_do_not_open_the_door(make_desk: Any, make_hook: Any, body: Any) -> None:
    desk = make_desk(make_hook("hydra", on_failure="open"))
    for scopes in ([f"s{number}" for number in range(1001)], ["x" * 2049]):
        request = body("hydra_token")
        request["request"]["granted_scopes"] = scopes

        assert said(desk.ask("hydra", request)) == PRODUCTS["hydra"].undecided


def test_an_event_tells_of_many_scopes_what_it_can(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra")
    request = body("hydra_token")
    request["request"]["granted_scopes"] = [f"s{number}" for number in range(1000)]

    assert desk.ask("hydra", request).status_code == 200
    (event,) = desk.events()
    assert len(event["scopes"]["requested"]) == len(event["scopes"]["granted"]) == 256


@pytest.mark.parametrize("given", ["", "a secret of 24 letters!", SECRET + "x", SECRET.upper(), "\xe9" * 24])
def test_a_wrong_secret_is_refused(make_desk: Any, body: Any, product: str, given: str) -> None:
    desk = make_desk(product)
    content = json.dumps(body(PRODUCTS[product].body)).encode()
    headers = {b"x-trustwatch-key": given.encode("latin-1")}
    answer = desk.runner.run(desk.http.post(f"/hooks/{product}", content=content, headers=headers))

    assert answer.status_code == 401
    assert answer.json()
    assert (desk.guard.verdict_counts.total(), desk.events()) == (0, [])
    assert desk.metric(f'trustwatch_http_requests_total{{route="/hooks/{product}",status="401"}}') == 1


def test_secrets_come_in_three_ways(make_desk: Any, make_hook: Any, body: Any) -> None:
    """Our header, a bearer token, basic authentication; another way, or twice, does not count."""
    pair = base64.b64encode(f"hydra:{SECRET}".encode()).decode()
    ways = {
        "header": ({"x-trustwatch-key": SECRET}, {}, None),
        "bearer": ({"authorization": f"bearer {SECRET}"}, {}, 'Bearer realm="trustwatch"'),
        "basic": ({"authorization": f"Basic {pair}"}, {}, 'Basic realm="trustwatch"'),
    }
    for way, (headers, more, challenge) in ways.items():
        given = {**more, "proof": way}
        if way == "basic":
            given["secret"] = Secret(f"hydra:{SECRET}")
        desk = make_desk(make_hook("hydra", **given))
        content = json.dumps(body("hydra_token")).encode()
        for other, (theirs, _, _) in ways.items():
            answer = desk.send("POST", "/hooks/hydra", content, **theirs)
            assert answer.status_code == (200 if way == other else 401), (way, other)
        assert desk.send("POST", "/hooks/hydra", content).headers.get("www-authenticate") == challenge
        twice = [*headers.items()] * 2
        assert desk.runner.run(desk.http.post("/hooks/hydra", content=content, headers=twice)).status_code == 401


def test_other_paths_and_methods(make_desk: Any, body: Any) -> None:
    """A hook that is not configured is not there, and nobody is told without a token of the API; a hook takes POST."""
    desk = make_desk("hydra")

    assert desk.send("GET", "/hooks/hydra").status_code == 405
    assert desk.send("GET", "/hooks/hydra").headers["allow"] == "POST"
    for path in ("/hooks/okta", "/hooks/", "/hooks/hydra/", "/hooks/%68ydra", "/access/v1/evaluation"):
        assert desk.send("POST", path).status_code == 401
        assert desk.send("GET", path).status_code in (404, 405)


@pytest.mark.parametrize(
    ("on_stale", "mode", "reason"), [("use", "enforce", ""), ("deny", "enforce", "stale"), ("deny", "shadow", "")]
)
def test_what_may_be_out_of_date(
    make_desk: Any, make_hook: Any, body: Any, on_stale: str, mode: str, reason: str
) -> None:
    desk = make_desk(make_hook("hydra", on_stale=on_stale), mode=mode)
    desk.level("low", "app-client")
    assert desk.ask("hydra", body("hydra_token")).status_code == 200
    desk.now += 3600
    answer = desk.ask("hydra", body("hydra_token"))

    assert answer.status_code == (403 if reason else 200)
    assert answer.json().get("reason", "") == reason
    if reason:
        labels = 'level="low",mode="enforce",reason="stale",via="hydra"'
        assert desk.metric(f"trustwatch_verdicts_total{{{labels}}}") == 1


def test_an_answer_does_not_wait_for_the_log(make_desk: Any, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that find no room, or that are wrong, are counted; who asked has its answer."""
    desk = make_desk("hydra")

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no event")

    monkeypatch.setattr(desk.guard.audit_sink, "enqueue", broken)

    assert desk.ask("hydra", body("hydra_token")).status_code == 200
    assert desk.metric('trustwatch_audit_events_total{outcome="dropped"}') == 1


def test_verdicts_and_times_are_counted(make_desk: Any, body: Any) -> None:
    desk = make_desk("hydra", "okta")
    desk.level("critical")
    for _ in range(3):
        desk.ask("okta", body("okta"))
    desk.ask("hydra", body("hydra_token"))

    labels = 'level="critical",mode="enforce",reason="risk_level",via="okta"'
    assert desk.metric(f"trustwatch_verdicts_total{{{labels}}}") == 3
    assert desk.metric('trustwatch_hook_seconds_count{hook="okta"}') == 3
    assert desk.metric('trustwatch_hook_seconds_count{hook="hydra"}') == 1
    desk.events()
    assert desk.metric('trustwatch_audit_events_total{outcome="written"}') == 4


def test_a_critical_ancestor_counts_where_policy_says_so(make_desk: Any, body: Any) -> None:
    """The chain that the product sends reaches the policy; only the current actor decides otherwise."""
    for descendants, expected in ((RiskLevel.LOW, 200), (RiskLevel.CRITICAL, 403)):
        book = PolicyBook(PolicyTable(version="3"), modes={"acme": "enforce"}, descendants=descendants)
        desk = make_desk("hydra", book=book)
        desk.level("critical", "orchestrator")
        request = body("hydra_token")
        request["session"]["extra"] = {"act": {"sub": "orchestrator"}}

        assert desk.ask("hydra", request).status_code == expected


def test_answers_need_no_database(make_desk: Any, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no person can be asked, which is counted; tokens are judged as before."""
    desk = make_desk("hydra")
    desk.level("medium", "app-client")

    def away(*_: Any) -> bool:
        raise Unavailable("the database is away")

    monkeypatch.setattr(desk.store.interventions, "add", away)
    request = body("hydra_token")
    assert desk.ask("hydra", request).status_code == 200
    request["request"]["granted_scopes"] = ["notes:write"]

    assert desk.ask("hydra", request).json()["reason"] == "step_up_required"
    desk.runner.run(desk.guard.approval_workflow.close())
    assert desk.metric('trustwatch_approvals_failed_total{what="unasked"}') == 1


def test_a_product_may_have_so_many_persons_asked(make_desk: Any, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all its agents, with or without a name of its own at the server; the token is refused all the same."""
    monkeypatch.setattr(approval_workflow, "MAX_PENDING_PER_TENANT", 2)
    desk = make_desk("hydra")
    request = body("hydra_token")
    request["request"]["granted_scopes"] = ["notes:write"]
    for number in range(4):
        desk.level("medium", f"app-{number}")
        request["request"]["client_id"] = f"app-{number}"
        assert desk.ask("hydra", request).json()["reason"] == "step_up_required"

    assert len(desk.asked()) == 2
    assert desk.metric('trustwatch_approvals_failed_total{what="unasked"}') == 2


def test_the_log_tells_refusals_and_wrong_secrets(make_desk: Any, make_hook: Any, body: Any, product: str) -> None:
    words = PRODUCTS[product]
    desk = make_desk(make_hook(product))
    desk.level(RiskLevel.CRITICAL, words.agent)
    with capture_logs() as lines:
        desk.ask(product, body(words.body), x_trustwatch_key="not it", zitadel_signature="t=1,v1=aa")
        desk.ask(product, body(words.body))

    wrong, refused = lines
    assert (wrong["event"], wrong["code"]) == ("the secret of a hook is missing or wrong", "hook_secret")
    assert (refused["event"], refused["hook"], refused["agent_id"]) == ("token refused", product, words.agent)
    assert (refused["risk_level"], refused["reason"]) == ("critical", "risk_level")
    assert SECRET not in str(lines)
    assert "not it" not in str(lines)
