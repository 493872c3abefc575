"""Rights of pages: scopes, tenants, form tokens, and the headers of every page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.api.console.pages import PAGE_MODULES

ROUTES = [route for page in PAGE_MODULES for route in page.router.routes]
PAGES = sorted({route.path for route in ROUTES if "GET" in route.methods and "{" not in route.path})
FORMS = sorted({route.path.translate({123: "", 125: ""}) for route in ROUTES if "POST" in route.methods})


def test_there_are_pages_and_forms() -> None:
    assert {"/", "/agents", "/agent"} <= set(PAGES)
    assert {"/agent/pin", "/agent/release"} <= set(FORMS)


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/nothing-here", "/static/console.css", "/static/../app.py"])
def test_every_answer_has_the_security_headers(site: Any, path: str) -> None:
    site.sign_in("trust-admins")
    answer = site.browser.get(f"/console{path}")
    policy = answer.headers["content-security-policy"]

    assert answer.status_code != 500
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    if "css" not in path:
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_anything_inline_or_foreign(site: Any, path: str) -> None:
    """No script, handler or style in the page, and no address of another host."""
    site.sign_in("trust-admins")
    page = site.browser.get(f"/console{path}", follow_redirects=True).text

    assert "style=" not in page and "<style" not in page
    assert " onclick=" not in page and "javascript:" not in page
    for tag in page.split("<script")[1:]:
        assert 'src="/console/static/' in tag.partition(">")[0] or 'type="application/json"' in tag.partition(">")[0]
    assert 'src="http' not in page and 'href="http' not in page


@pytest.mark.parametrize("path", PAGES)
def test_nobody_sees_a_page_without_a_session(site: Any, path: str) -> None:
    """Pages lead to the sign-in; parts of pages say so to the script that asked."""
    page = site.browser.get(f"/console{path}")
    part = site.browser.get(f"/console{path}", headers={"HX-Request": "true"})

    assert page.status_code == 303 and page.headers["location"].startswith("/console/sign-in")
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/console/sign-in")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_its_scope(site: Any, path: str) -> None:
    """trust.admin does not include trust.score:read, nor the other way round."""
    if path in {"/alerts", "/dead-letters", "/health"}:
        site.sign_in("readers")
    else:
        site.sign_in("blind")
    answer = site.browser.get(f"/console{path}")

    assert answer.status_code == 403
    assert "scope" in answer.text


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_no_form_is_taken_without_its_token(site: Any, path: str, token: str | None) -> None:
    site.sign_in("trust-admins")
    form = {"id": "bot", "tenant": "acme", "issuer": "x", "why": "w"} | ({} if token is None else {"csrf_token": token})
    answer = site.browser.post(f"/console{path}", data=form)

    assert answer.status_code == 403
    assert "does not come from a page of this session" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_no_form_is_taken_from_another_site(site: Any, headers: dict[str, str]) -> None:
    site.sign_in("soc")
    form = {"csrf_token": site.form_token(), "id": "bot", "why": "w"}

    assert site.browser.post("/console/agent/release", data=form, headers=headers).status_code == 403


def test_the_token_of_another_session_is_none(site: Any) -> None:
    site.sign_in("soc")
    first = site.form_token()
    site.sign_in("soc")

    assert site.browser.post("/console/sign-out", data={"csrf_token": first}).status_code == 403


def test_acting_needs_more_than_looking(site: Any, make_row: Callable[..., Any]) -> None:
    row = make_row("looked-at")
    site.know(row)
    site.sign_in("readers")
    page = site.browser.get("/console/agent", params={"id": "looked-at", "tenant": "acme"})
    answer = site.post(
        "/console/agent/pin",
        id="looked-at",
        tenant="acme",
        issuer=row.name.issuer,
        level="high",
        why="w",
        valid_s="3600",
    )

    assert "/console/agent/pin" not in page.text
    assert answer.status_code == 403
    assert "trust.feedback" in answer.text


def test_agents_of_other_tenants_are_not_there(site: Any, make_row: Callable[..., Any]) -> None:
    site.know(make_row("theirs", tenant="globex", level=4), make_row("ours", tenant="acme"))
    site.sign_in("soc")
    listed = site.browser.get("/console/agents")
    overview = site.browser.get("/console/")
    named = site.browser.get("/console/agent", params={"id": "theirs", "tenant": "globex"})
    unnamed = site.browser.get("/console/agent", params={"id": "theirs"})
    filtered = site.browser.get("/console/agents", params={"tenant": "globex"})

    assert "ours" in listed.text and "theirs" not in listed.text and "globex" not in listed.text
    assert "theirs" not in overview.text and "globex" not in overview.text
    assert (named.status_code, unnamed.status_code, filtered.status_code) == (403, 404, 403)


def test_figures_of_the_whole_service_are_for_those_who_see_all(site: Any) -> None:
    site.sign_in("soc")
    some = site.browser.get("/console/").text
    site.sign_in("trust-admins")

    assert "add up all tenants" in some and "Judged up to" not in some
    assert "Judged up to" in site.browser.get("/console/").text


def test_a_form_that_is_too_large_is_refused(site: Any) -> None:
    site.sign_in("soc")

    assert site.browser.post("/console/sign-out", data={"why": "x" * 70_000}).status_code == 413


def test_the_console_is_not_there_unless_it_is_enabled(site: Any) -> None:
    """`/console` leads to its first page; the API's documents know nothing of it."""
    assert site.browser.get("/console").headers["location"] == "/console/"
    assert "/console" not in str(site.browser.get("/openapi.json").json()["paths"])
