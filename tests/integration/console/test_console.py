"""The console in a real browser: every page, sign-in, work done by clicking, what is seen without loading again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from ...support.console_testbed import ConsoleTestbed
from ...support.nightly import nightly
from ...support.page_viewer import NARROW, WIDE, PageViewer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LOOKED_FOR = ((WIDE, "light"), (NARROW, "dark"))
"""Where axe-core runs: each width and each scheme once, since it takes a second."""

README_PICTURE, MAX_PICTURE_BYTES = "console.png", 200_000

Look = Callable[..., PageViewer]


def raised(site: ConsoleTestbed) -> dict[str, Any]:
    """A decision that raised an agent to medium or above, by behaviour."""
    found: dict[str, Any] = next(
        one
        for one in site.service.pages("/v1/decisions")
        if one["cause"] == "event" and one["previous_level"] == "low" and one["level"] in ("medium", "high", "critical")
    )
    return found


def pages(site: ConsoleTestbed) -> dict[str, str]:
    """Name and path of every page, those of single things included."""
    decision, letters = raised(site), site.service.pages("/v1/dead-letters")
    agent = site.query({"tenant": decision["tenant"], "issuer": decision["issuer"], "id": decision["agent_id"]})
    case = next(one for one in site.service.pages("/v1/cases") if one["highest_level"] == "critical")
    (version,) = {one["version"] for one in site.service.get("/v1/models").json()["items"]}
    return {
        "overview": "/console/",
        "agents": "/console/agents",
        "agent": f"/console/agent?{agent}",
        "decisions": "/console/decisions",
        "decision": f"/console/decisions/{decision['decision_id']}",
        "feedback-form": f"/console/decisions/{decision['decision_id']}/feedback",
        "feedback": "/console/feedback",
        "cases": "/console/cases",
        "case": f"/console/cases/{case['case_id']}",
        "alerts": "/console/alerts",
        "approvals": "/console/approvals",
        "models": "/console/models",
        "model": f"/console/models/{version}",
        "dead-letters": "/console/dead-letters",
        "dead-letter-text": f"/console/dead-letters/{letters[0]['letter_id']}",
        "trends": "/console/trends",
        "health": "/console/health",
        "dead-letter-bytes": f"/console/dead-letters/{letters[1]['letter_id']}",
    }


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (WIDE, "light"),
        (NARROW, "dark"),
        pytest.param(WIDE, "dark", marks=nightly),
        pytest.param(NARROW, "light", marks=nightly),
    ],
)
def test_every_page_opens_without_errors_or_barriers(site: ConsoleTestbed, look: Look, width: int, scheme: str) -> None:
    looker = look(width=width, scheme=scheme)
    found = []
    for name, path in pages(site).items():
        page = looker.open(path)
        assert page.locator("h1").count() == 1, name
        if name == "agent":
            page.locator("#events-body table").first.wait_for()
        if name == "case":
            page.locator("#timeline .moment").first.wait_for()
        for chart in page.locator("[data-figure]").all():
            chart.locator("canvas").first.wait_for()
        looker.save(name)
        tables = page.locator("details.chart-data").all()
        assert len(tables) == page.locator("[data-figure] canvas").count(), name
        for table in tables:
            table.locator("summary").press("Enter")
            expect(table.locator("tbody td").first).to_be_visible()
            table.locator(".scroll").press("End")  # it takes the focus, so keys scroll it
        barriers = looker.barriers() if (width, scheme) in LOOKED_FOR else []
        found += [f"{name}: {what}" for what in (*barriers, *looker.overflow())]

    assert found == []


def critical(site: ConsoleTestbed) -> dict[str, Any]:
    """The thief's victim of the day, as it became critical: the network is new and stands first."""
    found: dict[str, Any] = next(
        one
        for one in site.service.pages("/v1/decisions")
        if one["level"] == "critical" and {"network", "new"} <= set(str(one["indicators"]).replace("'", " ").split())
    )
    return found


def test_a_critical_agent_is_understood_and_acted_on_without_scrolling(site: ConsoleTestbed, look: Look) -> None:
    decision = critical(site)
    agent = site.query({"tenant": decision["tenant"], "issuer": decision["issuer"], "id": decision["agent_id"]})
    looker = look()
    page = looker.open(f"/console/agent?{agent}")
    network = next(one["value"] for one in decision["indicators"] if one["status"] == "new")
    seen = [
        page.locator(".now .level"),
        page.locator("section[aria-labelledby=because] .reasons li").first,
        page.locator(".came-with code", has_text=network).first,
        page.get_by_role("link", name="It was a true positive"),
        page.locator("summary", has_text="Fix the level"),
        page.locator("summary", has_text="Release"),
    ]
    looker.save_window("agent-critical-window.png")
    for part in seen:  # looked at again where a live update replaces it this very moment
        expect(part).to_be_in_viewport(ratio=1)
    assert page.evaluate("scrollY") == 0
    page.locator("summary", has_text="Fix the level").click()
    expect(page.get_by_role("button", name="Fix the level")).to_be_in_viewport()
    assert looker.barriers() == []


def test_events_show_where_they_came_from_and_what_of_it_is_new(site: ConsoleTestbed, look: Look) -> None:
    """Network, address, software, credential, key, instance and session of each event; a new network is marked."""
    decision = critical(site)
    agent = site.query({"tenant": decision["tenant"], "issuer": decision["issuer"], "id": decision["agent_id"]})
    page = look().open(f"/console/agent?{agent}")
    table = page.locator("#events-body table").first
    table.wait_for()
    heads = [head.inner_text() for head in table.locator("th").all()]
    assert {"Network", "Software", "Credential", "Key", "Instance", "Session"} <= set(heads)
    network = next(one["value"] for one in decision["indicators"] if one["status"] == "new")
    marked_row = table.locator("tr", has_text=network).first
    assert "new" in marked_row.locator(".chip.news").first.inner_text()


def test_a_person_chooses_local_time_and_the_order_of_rows(site: ConsoleTestbed, look: Look) -> None:
    """Both in the browser; the choice of time stays over pages, and the time of the service is under the pointer."""
    looker = look(time_zone="Asia/Kolkata")
    page = looker.open("/console/decisions")
    first = page.locator("#list time").first
    expect(first).to_have_text(re.compile(" UTC$"))
    page.get_by_role("button", name="Show local time").click()
    expect(first).to_have_text(re.compile(r" \+05:30$"))
    page = looker.open("/console/decisions")
    first = page.locator("#list time").first
    expect(first).to_have_text(re.compile(r" \+05:30$"))
    expect(first).to_have_attribute("title", re.compile(" UTC$"))
    page.get_by_role("button", name="Show UTC").click()
    expect(first).to_have_text(re.compile(" UTC$"))

    page.locator("#live[data-state=open]").wait_for()  # what was chosen stays over the first update, too
    page.get_by_role("button", name="Risk", exact=True).click()
    expect(page.locator("#list th[aria-sort=ascending]")).to_have_text("Risk")
    risks = [float(cell.inner_text()) for cell in page.locator("#list td[data-name=Risk]").all()]
    assert risks == sorted(risks) and risks[0] < risks[-1]
    page.get_by_role("button", name="Risk", exact=True).click()
    expect(page.locator("#list th[aria-sort=descending]")).to_have_text("Risk")
    assert looker.barriers() == []


def test_the_address_keeps_what_a_person_looks_at(site: ConsoleTestbed, look: Look) -> None:
    looker = look()
    page = looker.open("/console/agents?type=&text=")
    page.locator("#text").fill("agent")
    page.wait_for_url(re.compile("text=agent"))
    page.locator(".columns > summary").press("Enter")
    for column in ("Confidence", "Events"):
        page.get_by_role("checkbox", name=column).press("Space")
    expect(page.get_by_role("columnheader", name="Events")).to_have_count(0)
    page.get_by_role("button", name="Risk", exact=True).press("Enter")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Risk")
    bookmark = page.url.removeprefix(site.url)

    for scheme in ("light", "dark"):
        narrow = look(width=NARROW, scheme=scheme)
        page = narrow.open(bookmark)
        expect(page.locator("#text")).to_have_value("agent")
        expect(page.locator("td[data-name=Events]")).to_have_count(0)
        risks = [cell.inner_text() for cell in page.locator("td[data-name=Risk]").all()]
        assert [float(risk.split()[-1]) for risk in risks] == sorted(float(risk.split()[-1]) for risk in risks)
        page.locator(".columns > summary").click()
        narrow.save("list")
        assert [*narrow.barriers(), *narrow.overflow()] == []


def test_everything_in_the_menu_is_a_page_of_this_test(site: ConsoleTestbed, look: Look) -> None:
    page = look().open("/console/")
    menu = {link.get_attribute("href") for link in page.locator("nav[aria-label=Pages] a").all()}

    assert menu
    assert menu <= set(pages(site).values())


def test_a_person_signs_in_at_the_openid_provider_and_out_again(site: ConsoleTestbed, look: Look) -> None:
    looker = look(signed_in=False)
    page = looker.open("/console/decisions")
    assert "/console/sign-in" in page.url
    assert looker.barriers() == []
    looker.save("sign-in")
    page.get_by_role("link", name="Sign in with your organisation").click()
    page.get_by_label("Name").fill("alice")
    page.get_by_role("button", name="Sign in").click()

    page.wait_for_url(f"{site.url}/console/decisions")
    assert page.get_by_text("Alice Analyst").count() == 1
    assert page.locator("nav").get_by_text("Dead letters").count() == 0
    tenants = {one["tenant"] for one in site.service.pages("/v1/decisions")}
    assert tenants == {"acme-corp", "globex"}
    assert page.locator("table").get_by_text("acme-corp").count() > 0
    assert page.locator("table").get_by_text("globex", exact=True).count() == 0

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(re.compile("/console/sign-in"))
    assert "/console/sign-in" in looker.open("/console/decisions").url


def test_an_approval_is_given_by_clicking(site: ConsoleTestbed, look: Look) -> None:
    site.ask_for_approval("agent-clicked", "orders:write")
    page = look().open("/console/approvals")
    card = page.locator("article", has_text="agent-clicked").filter(has_text="orders:write")
    card.get_by_label("Why").fill("change CHG-7, seen on paper")
    card.get_by_label("Holds for").select_option(label="15 minutes")
    card.get_by_role("button", name="Approve").click()

    expect(page.get_by_role("status").filter(has_text="is approved: orders:write")).to_have_count(1)
    row = page.locator("tr", has_text="agent-clicked").filter(has_text="approved")
    assert "change CHG-7, seen on paper" in row.inner_text()
    assert site.may("agent-clicked", "orders:write")
    assert not site.may("agent-clicked", "payments:write")


def test_a_false_positive_is_marked_by_clicking_seen_before_and_acts(site: ConsoleTestbed, look: Look) -> None:
    decision = raised(site)
    looker = look()
    page = looker.open(f"/console/decisions/{decision['decision_id']}")
    page.get_by_role("link", name="It was a false positive").click()
    page.get_by_label("Why").fill("quarterly job, announced")
    page.get_by_role("button", name="Preview what it changes").click()
    adopt = page.get_by_role("button", name=re.compile("^Adopt"))
    adopt.wait_for(timeout=60_000)
    said = page.locator("#preview").inner_text()
    assert "events that arrived from" in said and "the decision that you marked would have been" in said
    assert re.search(r"alerts? removed", said)
    assert looker.barriers() == []
    looker.save("feedback-preview")
    adopt.click()

    page.wait_for_url(re.compile("/console/feedback"))
    assert "In force" in page.get_by_role("status").filter(has_text=decision["agent_id"]).inner_text()
    (rule,) = [one for one in site.service.pages("/v1/feedback") if one["decision_id"] == decision["decision_id"]]
    assert rule["reason"] == "quarterly job, announced"
    site.service.wait(lambda: site.service.get(f"/v1/feedback/{rule['feedback_id']}").json()["partitions"] == 1)
    looker.save("feedback-in-force")

    row = looker.open("/console/feedback").locator("tr", has_text="quarterly job, announced")
    row.get_by_text("Revoke").first.click()
    row.get_by_label("Why").fill("it was none after all")
    row.get_by_role("button", name="Revoke").click()

    page.get_by_role("status").filter(has_text=re.compile("Revok")).wait_for()
    assert site.service.get(f"/v1/feedback/{rule['feedback_id']}").json()["status"] in ("revoking", "revoked")


def test_a_change_of_level_is_seen_without_loading_again(site: ConsoleTestbed, look: Look) -> None:
    """The overview tells of it within seconds, by itself: in its lists, and in words for who can not see them.

    The table under a drawing that somebody has opened by keys stays open, and the focus on it.
    """
    page = look().open("/console/")
    live = page.locator("#live[data-state=open]")
    live.wait_for()
    table = page.locator("details.chart-data")
    table.locator("summary").press("Enter")
    mark(page)

    site.steal("agent-stolen-live")

    page.locator("#said", has_text="agent-stolen-live is now critical").wait_for(timeout=60_000)
    page.locator("main", has_text="agent-stolen-live").wait_for(timeout=60_000)
    assert marked(page)
    expect(table.locator("tbody td").first).to_be_visible()
    expect(table.locator("summary")).to_be_focused()


def mark(page: Page) -> None:
    """Leave something that a page that is loaded again no longer has."""
    page.evaluate("document.documentElement.dataset.untouched = 'yes'")


def marked(page: Page) -> bool:
    """Whether the page is still the one that was marked."""
    return page.evaluate("document.documentElement.dataset.untouched") == "yes"


def test_the_keyboard_alone_leads_to_an_agent(site: ConsoleTestbed, look: Look) -> None:
    """Skip link first, focus always visible, the search by its key, an agent's page by Enter."""
    looker = look()
    page = looker.open("/console/agents")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    decision = raised(site)
    reached = None
    for _ in range(80):
        page.keyboard.press("Tab")
        reached = page.evaluate("document.activeElement.getAttribute('href')") or ""
        if reached.startswith("/console/agent?"):
            break
    assert reached and reached.startswith("/console/agent?"), decision
    page.keyboard.press("Enter")

    page.wait_for_url(re.compile(r"/console/agent\?"))
    assert page.locator("h1").count() == 1


def test_keys_lead_to_pages_and_are_listed(site: ConsoleTestbed, look: Look) -> None:
    looker = look()
    page = looker.open("/console/decisions")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    menu = {link.get_attribute("href") for link in page.locator("nav[aria-label=Pages] a").all()}
    assert {link.get_attribute("href") for link in page.locator("#keys a").all()} == menu
    assert looker.barriers() == []
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("?")
    page.keyboard.press("/")  # also from the list itself
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator("[data-search]").first).to_be_focused()
    page.locator("main").focus()
    page.keyboard.press("/")
    page.keyboard.type("gc?")
    assert page.locator("[data-search]").first.input_value() == "gc?"
    expect(page.locator("#keys")).to_be_hidden()
    page.locator("main").focus()
    page.keyboard.type("gc")
    page.wait_for_url(re.compile(r"/console/cases$"))

    page.get_by_role("button", name="Keys").click()
    page.get_by_role("button", name="Switch the keys off").click()
    expect(page.get_by_role("button", name="Switch the keys on")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    page.locator("main").focus()
    page.keyboard.type("?/gd")
    expect(page.locator("#keys")).to_be_hidden()
    assert page.url.endswith("/console/cases")
    page = looker.open("/console/agents")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_hidden()


def test_pages_run_nothing_inline_and_ask_nobody_else(site: ConsoleTestbed, look: Look) -> None:
    looker = look()
    for path in pages(site).values():
        response = looker.page.goto(f"{site.url}{path}")
        assert response is not None
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        html = response.text()
        assert not re.search(
            r"<script(?![^>]*\ssrc=)(?![^>]*type=\"application/json\")|<style|\sstyle=|\son[a-z]+=", html
        )


def test_news_are_told_while_somebody_writes(site: ConsoleTestbed, look: Look) -> None:
    looker = look()
    page = looker.open("/console/approvals")
    page.locator("#live[data-state=open]").wait_for()
    why = page.locator("article", has_text="agent-waiting").get_by_label("Why").first
    why.fill("half a sen")
    site.ask_for_approval("agent-later", "reports:write")
    page.get_by_role("link", name="Load again").wait_for(timeout=60_000)
    assert why.input_value() == "half a sen"

    page = looker.open("/console/decisions")
    page.locator("#live[data-state=open]").wait_for()
    mark(page)
    site.steal("agent-stolen-again")
    page.locator("#list tr", has_text="agent-stolen-again").filter(has_text="critical").first.wait_for(timeout=60_000)
    assert marked(page)


def test_an_order_about_models_that_can_not_be_done_says_why(site: ConsoleTestbed, look: Look) -> None:
    """There is one version alone: nothing to go back to, and nothing changes."""
    page = look(expected=(409,)).open("/console/models")
    page.get_by_text("Go back to the version before").click()
    page.get_by_label("Why").fill("it alarms too often")
    page.get_by_role("button", name="Roll back").click()

    told = page.get_by_role("alert").filter(has_text="Nothing was ordered").inner_text()
    assert "nothing to roll back to" in told
    assert len(site.service.get("/v1/models").json()["items"]) == 1
