"""No page of the console shows anything of another tenant, whichever pages there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.console import live_updates, sign_in
from trustwatch.api.console.console_sessions import ConsoleSessions, new_session, session_key
from trustwatch.api.console.page_dependencies import FORM_HEADER
from trustwatch.api.console.pages import PAGE_MODULES
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ConsoleGrantSettings, ConsoleOidcSettings, ConsoleSettings

from ...support.two_tenants import (
    ACME,
    GLOBEX,
    TENANTS,
    Route,
    call_of,
    fill_store,
    ids_of,
    mark,
    names_one_thing,
    secret,
)

AS = "https://as.example"
WITHOUT_SESSION = {"/sign-in", "/sign-in/start", "/callback", "/dev-login"}
"""Pages for people who are not signed in; they show nothing of any tenant."""
ENDLESS = {"/live"}
LAST = {"/sign-out"}
AGENT = {"id": "{agent_id}", "tenant": "{tenant}", "issuer": AS, "why": "a reason"}
DRAFT = {"verdict": "true_positive", "reason": "a reason"}
FORMS: dict[str, dict[str, Any]] = {
    "/agent/release": AGENT,
    "/agent/pin": AGENT | {"level": "high", "valid_s": "3600"},
    "/agent/unpin": AGENT,
    "/alerts/test": {},
    "/approvals/{intervention_id}": {"action": "approve", "why": "a reason", "valid_s": "3600"},
    "/unpin": {"agent": "{agent_id}", "tenant": "{tenant}", "issuer": AS, "why": "a reason"},
    "/feedback/{feedback_id}/revoke": {"reason": "a reason"},
    "/decisions/{decision_id}/feedback/preview": DRAFT,
    "/decisions/{decision_id}/feedback": DRAFT,
    "/models/rollback": {"why": "a reason"},
    "/models/train": {"why": "a reason"},
    "/models/{version}/promote": {"why": "a reason"},
    "/cases": {"action": "acknowledge", "case-1": "{case_id}"},
    "/cases/{case_id}/{action}": {"note": "a reason"},
    "/dead-letters/{letter_id}/replay": {},
    "/sign-out": {},
}


def all_pages() -> list[Route]:
    """Every route of the console, reads first; none is named here."""
    routers = (sign_in.router, live_updates.router, *(page.router for page in PAGE_MODULES))
    found = {Route(method, route.path) for router in routers for route in router.routes for method in route.methods}
    return sorted((one for one in found if one.method != "HEAD"), key=lambda one: (one.method != "GET", one.path))


PAGES = [page for page in all_pages() if page.path not in WITHOUT_SESSION | ENDLESS | LAST]


def with_console(folder: Path) -> dict[str, Any]:
    """Settings of a console in which one person sees one tenant, and may do everything there."""
    scopes = ("trust.score:read", "trust.feedback", "trust.admin")
    grants = tuple(ConsoleGrantSettings(name=name, value=name, scopes=scopes, tenants=(name,)) for name in TENANTS)
    oidc = ConsoleOidcSettings(issuer="https://login.example", client_id="console", grants=grants)
    return {"console": ConsoleSettings(enabled=True, oidc=oidc)}


def browser_of(site: Any, grant: str) -> httpx2.Client:
    """The browser of a person who is signed in under that grant."""
    settings: Settings = site.settings
    sessions = ConsoleSessions(session_key(settings.console, settings.data_dir), site.clock)
    session = new_session({"sub": "ada"}, grant, "sub", site.clock())
    cookies = {f"trustwatch-{settings.listen.port}": sessions.seal(session)}
    return httpx2.Client(
        base_url=f"{site.url}/console", headers={FORM_HEADER: sessions.form_token(session)}, cookies=cookies
    )


@pytest.fixture
def browser(console: Any) -> Iterator[httpx2.Client]:
    """The browser of somebody who sees acme."""
    with browser_of(console, ACME) as made:
        yield made


@pytest.fixture
def console(new_site: Callable[..., Any], tmp_path: Path) -> Any:
    """A service with a console, and everything of two tenants in its store."""
    site = new_site(**with_console(tmp_path))
    fill_store(site.store, {ACME: "console:ada", GLOBEX: "globex"})
    site.report(list(site.store.agents.iterate()))
    return site


def ask(browser: httpx2.Client, page: Route, whose: str, tenant: str | None = None) -> httpx2.Response:
    """The page, about things of *whose*, with *tenant* named in its filters."""
    call = call_of(page, whose, FORMS)
    params = {"id": ids_of(whose)["agent_id"], "agent": ids_of(whose)["agent_id"], "issuer": AS}
    return browser.request(call.method, call.path, params=params | {"tenant": tenant or whose}, data=call.body)


def test_every_page_shows_its_person_one_tenant_alone(browser: httpx2.Client) -> None:
    """Whatever page, about one's own things or the other's, with its own tenant named or the other's."""
    unreached = set()
    for page in PAGES:
        for whose in (GLOBEX, ACME):
            answer = ask(browser, page, whose)
            assert answer.status_code != 500, f"{page} read more than its person may see, or failed: {answer.text}"
            assert secret(GLOBEX) not in answer.text, f"{page} showed: {answer.text}"
            assert answer.status_code != 401 and "/sign-in" not in answer.headers.get("location", ""), page
            if whose == ACME:
                assert mark(GLOBEX) not in answer.text, f"{page} showed: {answer.text}"
            elif names_one_thing(page):
                assert answer.status_code >= 400, f"{page}: {answer.status_code}"
            if answer.status_code == 503:
                unreached.add(page.path)
        answer = ask(browser, page, ACME, GLOBEX)
        assert answer.status_code != 500
        assert secret(GLOBEX) not in answer.text
        assert mark(GLOBEX) not in answer.text
    assert all(path.startswith("/models") for path in unreached), f"not looked at: {unreached}"


def test_the_walk_finds_what_is_there(browser: httpx2.Client) -> None:
    shown = {page.path for page in PAGES if page.method == "GET" and mark(ACME) in ask(browser, page, ACME).text}
    assert shown >= {
        "/agents",
        "/agent",
        "/decisions",
        "/decisions/{decision_id}",
        "/approvals",
        "/feedback",
        "/",
    }


def test_no_page_answers_without_a_session(console: Any) -> None:
    with httpx2.Client(base_url=f"{console.url}/console") as stranger:
        for page in all_pages():
            if page.path in WITHOUT_SESSION:
                continue
            answer = ask(stranger, page, ACME)
            assert answer.status_code in (303, 401, 403), f"{page}: {answer.status_code}"
            assert mark(ACME) not in answer.text
