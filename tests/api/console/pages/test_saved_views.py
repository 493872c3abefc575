"""Saved views and the choice of columns, on the pages of the lists."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from trustwatch.scoring.store import saved_view_store

from ....support.console_records import row_of

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def site(site: Any) -> Any:
    """With an agent of each tenant."""
    site.know(row_of("bot", "acme"), row_of("theirs", "globex"))
    return site


def enter(site: Any, group: str, who: str) -> None:
    """Sign in as somebody else than the others."""
    site.provider.userinfo = {"sub": who}
    assert site.sign_in(group, sub=who).status_code == 303


def heads(text: str) -> list[str]:
    """Headings of the table."""
    return re.findall(r'<th scope="col" data-column="(\w+)"', text)


def views(text: str) -> dict[str, str]:
    """Addresses of the views in the menu, by name."""
    menu = text.partition('aria-label="Saved views of this page"')[2].partition("data-save-view")[0]
    return {name: url.replace("&amp;", "&") for url, name in re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', menu)}


def save(site: Any, page: str, name: str, query: str, **more: str) -> Any:
    return site.post("/console/views", page=page, name=name, query=query, **more)


@pytest.mark.parametrize(
    ("page", "columns", "shown"),
    [
        ("agents", ["why", "risk"], ["agent", "risk", "why"]),
        ("agents", ["agent"], ["agent"]),
        ("agents", ["coffee"], ["level", "agent", "type", "tenant", "risk", "confidence", "events", "seen", "why"]),
    ],
    ids=["two and the leading one", "the leading one alone", "none that there is"],
)
def test_columns_are_chosen_by_the_address(site: Any, page: str, columns: list[str], shown: list[str]) -> None:
    """In the order of the list; each row has as many cells as there are heads, and the boxes say the same."""
    site.sign_in("trust-admins")
    text = site.browser.get(f"/console/{page}", params={"column": columns}).text
    assert heads(text) == shown
    row = text.partition("<tbody>")[2].partition("</tr>")[0]
    assert row.count("<td") == len(shown)
    ticked = re.findall(r'name="column" value="(\w+)" checked', text)
    assert ticked == [name for name in shown if name != "agent"]


def test_what_is_shown_is_saved_and_found_in_the_menu(site: Any) -> None:
    """Filters, columns and order, nothing else; it is marked where it is what the page shows."""
    enter(site, "soc", "u-saves")
    query = "?level=high&level=low&text=&column=agent&column=why&sort=-why&cursor=abc&evil=1"
    sent = save(site, "agents", HOSTILE, query)
    assert sent.status_code == 303
    url = sent.headers["location"]
    assert parse_qs(urlsplit(url).query, keep_blank_values=True) == {
        "level": ["high", "low"],
        "text": [""],
        "column": ["agent", "why"],
        "sort": ["-why"],
    }
    page = site.browser.get(url).text
    assert HOSTILE not in page and heads(page) == ["agent", "why"]
    assert views(page) == {"&lt;script&gt;alert(1)&lt;/script&gt;": url}
    assert page.count('aria-current="true"') == 1
    assert 'name="sort" value="-why" data-sort' in page
    plain = site.browser.get("/console/agents").text
    assert 'aria-current="true"' not in plain and len(views(plain)) == 1
    assert views(site.browser.get("/console/decisions").text) == {}


def test_views_are_renamed_and_removed(site: Any) -> None:
    """By who has them; a name that is taken is refused in words."""
    enter(site, "soc", "u-renames")
    for name in ("night", "day"):
        save(site, "cases", name, "status=&level=high")
    page = site.browser.get("/console/cases?status=&level=high").text
    assert views(page) == dict.fromkeys(("day", "night"), "/console/cases?status=&level=high")
    first = re.findall(r'action="(/console/views/[^"]+)"', page)[0]
    assert "another view night" in site.post(first, action="rename", name="night").text
    assert site.post(first, action="rename", name="dusk").headers["location"] == "/console/cases?status=&level=high"
    assert set(views(site.browser.get("/console/cases").text)) == {"dusk", "night"}
    enter(site, "soc", "u-other")
    assert site.post(first, action="remove").status_code == 404
    enter(site, "soc", "u-renames")
    assert site.post(first, action="remove").headers["location"] == "/console/cases"
    assert set(views(site.browser.get("/console/cases").text)) == {"night"}
    assert site.post(first, action="remove").status_code == 404


def test_administrators_share_views_with_readers_of_a_tenant(site: Any) -> None:
    """Who reads another tenant does not see them; who is no administrator neither shares nor changes them."""
    enter(site, "trust-admins", "u-shares")
    assert "readers of globex" in site.browser.get("/console/agents").text
    sent = save(site, "agents", "for acme", "tenant=acme", share="tenant:acme")
    assert sent.status_code == 303
    save(site, "agents", "for globex", "tenant=globex", share="tenant:globex")
    enter(site, "readers", "u-reads")
    page = site.browser.get("/console/agents").text
    assert views(page) == {"for acme": "/console/agents?tenant=acme"}
    assert "shared with acme by console:" in page and "readers of" not in page and "/console/views/" not in page
    assert save(site, "agents", "mine", "", share="tenant:acme").status_code == 403
    shared = site.store.saved_views.list_views("agents", "", ("acme",))[0]
    assert site.post(f"/console/views/{shared.view_id}", action="remove").status_code == 403
    enter(site, "trust-admins", "u-removes")
    assert site.post(f"/console/views/{shared.view_id}", action="remove").status_code == 303


def test_administrators_of_a_tenant_share_with_none_but_it(site: Any) -> None:
    """And only on pages that they may see."""
    enter(site, "blind", "u-blind")
    assert save(site, "acts", "who", "kind=pin", share="tenant:globex").status_code == 403
    assert save(site, "agents", "agents", "").status_code == 403
    assert save(site, "acts", "who", "kind=pin", share="tenant:acme").status_code == 303
    enter(site, "soc", "u-acts")
    assert save(site, "acts", "who", "").status_code == 403


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"page": "alerts", "name": "x", "query": ""}, "must be one of agents, decisions, cases, acts"),
        ({"page": "agents", "name": " \u202e ", "query": ""}, "1 to 80 characters"),
        ({"page": "agents", "name": "x" * 81, "query": ""}, "1 to 80 characters"),
        ({"page": "agents", "name": "x", "query": "text=" + "a" * 3000}, "a value may have 2048 characters"),
        ({"page": "agents", "name": "x", "query": "level=low&" * 60}, "50 values"),
        ({"page": "agents", "name": "x", "query": "x" * 9000}, "8192 characters"),
    ],
    ids=["page", "empty name", "long name", "long value", "many values", "long query"],
)
def test_what_can_not_be_saved_is_refused_in_words(site: Any, form: dict[str, str], words: str) -> None:
    """And nothing is saved."""
    enter(site, "soc", "u-bad")
    answer = site.post("/console/views", **form)
    assert answer.status_code == 422 and words in answer.text
    assert views(site.browser.get("/console/agents").text) == {}


def test_nobody_has_too_many(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over is refused, and says what to do."""
    monkeypatch.setattr(saved_view_store, "MAX_VIEWS", 1)
    enter(site, "soc", "u-many")
    assert save(site, "agents", "one", "").status_code == 303
    assert "Remove one first" in save(site, "decisions", "two", "").text
    assert save(site, "agents", "one", "level=high").status_code == 303


def test_a_form_of_another_page_saves_nothing(site: Any) -> None:
    """Without the token of the session."""
    enter(site, "soc", "u-forged")
    assert site.browser.post("/console/views", data={"page": "agents", "name": "x"}).status_code == 403
    assert views(site.browser.get("/console/agents").text) == {}


def test_links_of_a_list_keep_columns_and_any_status(site: Any) -> None:
    """The files and the live list of cases of any status are of any status, too."""
    enter(site, "soc", "u-links")
    text = site.browser.get("/console/cases", params={"status": "", "column": ["case", "owner"], "sort": "owner"}).text
    assert 'hx-get="/console/cases?status=any&amp;column=case&amp;column=owner&amp;sort=owner"' in text
    again = site.browser.get("/console/cases", params={"status": "any"}).text
    assert '<option value="">any</option>' in again and 'value="unresolved" selected' not in again
