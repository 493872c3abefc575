"""No route of the API shows anything of another tenant, whichever routes there are and whatever order they come in."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from trustwatch.api.http import app as application
from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.dependencies import AdministratorDep, RuntimeDep
from trustwatch.api.service import slices as service_slices
from trustwatch.api.service.slices import SLICES
from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings
from trustwatch.ingest.settings_reading import decode_yaml

from ...support.nightly import size
from ...support.two_tenants import (
    ACME,
    GLOBEX,
    TENANTS,
    Call,
    Route,
    call_of,
    fill_store,
    mark,
    names_one_thing,
    secret,
    tenants_named,
)

AS = "https://as.example"
SCOPES = (*ALL_SCOPES, "ssf.manage")
CALLERS = {ACME: "gateway", GLOBEX: "globex"}
"""Administrators of one tenant each, by their tenant."""
PUBLIC = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v1/schema/audit-event",
    "/ssf/jwks.json",
    "/ssf/receiver-jwks.json",
    "/.well-known/ssf-configuration",
    "/.well-known/ssf-configuration/{issuer_path:path}",
}
"""Paths that answer without a token (`/metrics` and `/readyz`: on this machine)."""
STREAMS = {"/v1/decisions/stream"}
"""Answers that do not end; tests/api/decisions and the console's have tests of their own."""
EVENT = {
    "id": "e-{tenant}",
    "time": "2025-11-24T16:00:00Z",
    "type": "tool.call",
    "tenant": "{tenant}",
    "outcome": "success",
}
DRAFT = {"verdict": "true_positive", "reason": "said of {decision_id}"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/events": EVENT,
    "/v1/traces": {"resourceSpans": []},
    "/v1/logs": {"resourceLogs": []},
    "/v1/dead-letters/{letter_id}/replay": {},
    "/v1/actuations/{target}/reconcile": {},
    "/v1/approvals/{intervention_id}/approve": {"why": "a reason"},
    "/v1/approvals/{intervention_id}/reject": {"why": "a reason"},
    "/v1/approvals/{intervention_id}/withdraw": {"why": "a reason"},
    "/v1/agents/{agent_id:name}/pin": {"level": "high", "why": "a reason"},
    "/v1/agents/{agent_id:name}/unpin": {"why": "a reason"},
    "/v1/agents/{agent_id:name}/release": {"note": "a reason"},
    "/v1/privacy/erasures": {"agent": "{agent_id}", "issuer": AS, "reason": "a reason"},
    "/v1/privacy/erasures/{erasure_id}/verify": {"proof": "x.y.z", "subject": "{agent_id}"},
    "/v1/agents/{agent_id:name}/calls/evaluate": {"action": "read_mail"},
    "/v1/risk/query": {"agents": [{"agent_id": f"agent-{mark(ACME)}"}, {"agent_id": f"agent-{mark(GLOBEX)}"}]},
    "/v1/alerts/test": {},
    "/v1/decisions/{decision_id}/feedback": DRAFT,
    "/v1/decisions/{decision_id}/feedback/preview": DRAFT,
    "/v1/cases/{case_id}/acknowledge": {},
    "/v1/cases/{case_id}/assign": {"owner": "ann"},
    "/v1/cases/{case_id}/notes": {"note": "a reason"},
    "/v1/cases/{case_id}/snooze": {"for_s": 3600, "note": "a reason"},
    "/v1/cases/{case_id}/contain": {"note": "a reason"},
    "/v1/cases/{case_id}/close": {"verdict": "false", "note": "a reason"},
    "/v1/cases/{case_id}/reopen": {"note": "a reason"},
    "/v1/cases/{case_id}/merge": {"into": "another"},
    "/v1/cases/{case_id}/split": {"agents": [{"agent_id": "{agent_id}"}], "note": "a reason"},
    "/v1/models/train": {"why": "a reason"},
    "/v1/models/rollback": {"why": "a reason"},
    "/v1/models/{version}/promote": {"why": "a reason"},
    "/ssf/stream": {"stream_id": "{stream_id}"},
    "/ssf/status": {"stream_id": "{stream_id}", "status": "paused"},
    "/ssf/subjects:add": {"stream_id": "{stream_id}", "subject": {"format": "opaque", "id": "x"}},
    "/ssf/subjects:remove": {"stream_id": "{stream_id}", "subject": {"format": "opaque", "id": "x"}},
    "/ssf/verify": {"stream_id": "{stream_id}"},
    "/ssf/poll/{stream_id}": {"returnImmediately": True},
}
ECHOED_IN_ANSWER = {"/v1/risk/query"}
"""Routes that are asked about both tenants' agents and repeat their ids."""


def all_routes() -> list[Route]:
    """Every route of every slice, reads first; none is named here."""
    routers = [application.router, *(router for part in SLICES for router in part.routers)]
    found = [(method, route.path) for router in routers for route in router.routes for method in route.methods]
    found += [(method, route.path) for part in SLICES for route in part.direct_routes for method in route.methods]
    return sorted({Route(*one) for one in found if one[0] != "HEAD"}, key=lambda one: (one.method != "GET", one.path))


ROUTES = [route for route in all_routes() if route.path not in PUBLIC | STREAMS]


@pytest.fixture
def service(new_site: Callable[..., Any], summary: Callable[..., Any]) -> Any:
    """A service with everything of two tenants in its store."""
    return filled(new_site(shared_signals=SharedSignalsSettings(enabled=True)), summary)


def filled(site: Any, summary: Callable[..., Any]) -> Any:
    """*site*, with everything of two tenants in store and memory."""
    fill_store(site.store, CALLERS)
    site.report(list(site.store.agents.iterate()))
    return site


def ask(site: Any, asker: str, call: Call, /, **params: str) -> httpx2.Response:
    """The answer to a call of the administrator of the tenant *asker*."""
    answer: httpx2.Response = site.client.request(
        call.method, call.path, json=call.body, params=params or None, headers=site.auth(CALLERS[asker], *SCOPES)
    )
    return answer


def texts(answer: httpx2.Response) -> str:
    """All of an answer as text; an archive unpacked."""
    if answer.headers.get("content-type") == "application/zip":
        archive = zipfile.ZipFile(BytesIO(answer.content))
        return "\n".join(archive.read(name).decode(errors="replace") for name in archive.namelist())
    return str(answer.headers) + answer.text


def check(answer: httpx2.Response, tenant: str, call: Call) -> None:
    """Nothing of the other tenant is in *answer*, and the store did not have to keep it back."""
    (other,) = {*TENANTS} - {tenant}
    assert answer.status_code != 500, f"{call} read more than its caller may see, or failed: {answer.text}"
    assert secret(other) not in texts(answer), f"{call} of {tenant} showed: {answer.text[:2000]}"
    if answer.headers.get("content-type") == "application/json":
        assert set(tenants_named(answer.json())) <= {tenant}, f"{call} of {tenant} showed: {answer.text[:2000]}"


@pytest.mark.parametrize("tenant", TENANTS)
def test_every_route_shows_its_caller_its_own_tenant_alone(service: Any, tenant: str) -> None:
    """Asked about its own things it never names the other's; asked about the other's, it knows nothing of them."""
    (other,) = {*TENANTS} - {tenant}
    unreached = set()
    for route in ROUTES:
        for whose in (other, tenant):
            call = call_of(route, whose, BODIES)
            answer = ask(service, tenant, call)
            check(answer, tenant, call)
            if answer.status_code == 503:
                unreached.add(route.path)
            if whose == other and names_one_thing(route):
                assert answer.status_code >= 400, f"{call} of {tenant}: {answer.status_code} {answer.text}"
            if whose == tenant and route.path not in ECHOED_IN_ANSWER:
                assert mark(other) not in texts(answer), f"{call} of {tenant} showed: {answer.text[:2000]}"
        named = call_of(route, other, BODIES)
        answer = ask(service, tenant, named, tenant=other)
        check(answer, tenant, named)
    assert all(path.startswith("/v1/models") for path in unreached), f"not looked at: {unreached}"


def test_the_walk_finds_what_is_there(service: Any) -> None:
    """The same walk by its owner shows the secrets: what the test above misses is not merely absent."""
    shown = {
        route.path
        for route in ROUTES
        if route.method == "GET" and secret(ACME) in texts(ask(service, ACME, call_of(route, ACME, BODIES)))
    }
    assert shown >= {
        "/v1/acts",
        "/v1/agents/{agent_id:name}/decisions",
        "/v1/agents/{agent_id:name}/export",
        "/v1/approvals",
        "/v1/approvals/{intervention_id}",
        "/v1/dead-letters/{letter_id}",
        "/v1/decisions",
        "/v1/decisions/{decision_id}",
        "/v1/feedback",
        "/v1/feedback/{feedback_id}",
        "/v1/feedback/previews/{preview_id}",
        "/v1/privacy/erasures",
    }


def test_the_document_has_no_route_that_is_not_walked(service: Any) -> None:
    """Routes that reach the application another way than by a slice would not be looked at.

    Hooks and gateways have tests of their own: each asks about agents of the tenant that its settings name.
    """
    walked = {route.path.replace(":name", "").replace(":path", "") for route in all_routes()}
    parts = [part.documented for part in SLICES if part.documented is not None]
    described = {path for part in parts for path in decode_yaml(part.read_bytes(), part.name)["paths"]}
    assert set(service.client.get("/openapi.json").json()["paths"]) - described <= walked


def test_nothing_but_the_public_paths_answers_without_a_token(service: Any) -> None:
    for route in [*ROUTES, *(Route("GET", path) for path in STREAMS)]:
        call = call_of(route, ACME, BODIES)
        assert service.client.request(call.method, call.path, json=call.body).status_code == 401, route


def test_a_new_route_that_forgets_the_tenants_shows_nothing(
    new_site: Callable[..., Any], summary: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads decisions of whoever, and one that does not even ask who calls: the store refuses both."""
    router = APIRouter()

    @router.get("/v1/forgetful")
    async def forgetful(caller: AdministratorDep, runtime: RuntimeDep) -> int:
        return len(runtime.store.decisions.page().items)

    @router.get("/v1/open")
    def unasked(runtime: RuntimeDep) -> int:
        return len(runtime.store.agents.find(f"agent-{mark(GLOBEX)}"))

    part = SLICES[0]
    monkeypatch.setattr("tests.api.conftest.SLICES", [part._replace(routers=[router, *part.routers]), *SLICES[1:]])
    assert service_slices.SLICES is SLICES
    site = filled(new_site(), summary)
    with httpx2.Client(base_url=site.url, headers={"connection": "close"}) as client:
        assert client.get("/v1/forgetful", headers=site.auth()).status_code == 500
        assert client.get("/v1/forgetful", headers=site.auth("all")).json() == 2
        assert client.get("/v1/open").status_code == 500


class TwoAdministrators(RuleBasedStateMachine):
    """Random calls of two administrators, about their own things and about the other's."""

    site: Any = None

    @rule(
        tenant=st.sampled_from(TENANTS),
        route=st.sampled_from(ROUTES),
        whose=st.sampled_from(TENANTS),
        named=st.sampled_from([None, *TENANTS, "*", ""]),
        limit=st.sampled_from([None, "1", "500"]),
    )
    def call(self, tenant: str, route: Route, whose: str, named: str | None, limit: str | None) -> None:
        """One call, with a tenant named or not, and the page after the first where there is one."""
        call = call_of(route, whose, BODIES)
        params = {name: value for name, value in (("tenant", named), ("limit", limit)) if value is not None}
        answer = ask(self.site, tenant, call, **params)
        check(answer, tenant, call)
        if whose != tenant and names_one_thing(route):
            assert answer.status_code >= 400, f"{call} of {tenant}: {answer.status_code} {answer.text}"
        self._follow(tenant, call, answer)

    def _follow(self, tenant: str, call: Call, answer: httpx2.Response) -> None:
        """A cursor is no way to the other's rows either, whoever uses it."""
        if call.method != "GET" or answer.headers.get("content-type") != "application/json":
            return
        document = answer.json()
        cursor = document.get("next_cursor") if isinstance(document, dict) else None
        for reader in TENANTS if cursor else ():
            check(ask(self.site, reader, call, cursor=cursor), reader, call)


@pytest.fixture(scope="module")
def lasting(shared: Any, summary: Callable[..., Any]) -> Iterator[Any]:
    """One service for all random calls: what they change stays."""
    yield filled(shared, summary)


@pytest.mark.timeout(size(each_push=300, nightly=3_600))  # 12,000 steps each night, on a machine that does more
def test_random_calls_of_two_administrators_show_nothing_of_the_other(lasting: Any) -> None:
    """A state machine over all routes; CI's nightly run has more steps."""
    machine = type("Machine", (TwoAdministrators,), {"site": lasting})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples // 5,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
