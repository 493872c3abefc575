"""Acts of people: the page, its filters, and the files that it gives."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest

from trustwatch.api.console.views import table_file
from trustwatch.scoring.records.containment import Intervention

from ....support.console_records import NOW_MS, row_of

HOSTILE = '=HYPERLINK("https://evil.example")<script>alert(1)</script>'


@pytest.fixture
def site(site: Any) -> Any:
    """With two pins of acme, one of globex, and an administrator in front of it."""
    for number, (agent, tenant, why) in enumerate(
        (("bot", "acme", HOSTILE), ("bot", "acme", "leaked"), ("theirs", "globex", "of globex"))
    ):
        name = row_of(agent, tenant).name
        by, at_ms = f"console:person-{number}", NOW_MS + number
        pin = (f"p-{number}", "pin", "active", name, 4, (), why, by, at_ms, by, at_ms, why, NOW_MS + 10**9, at_ms)
        site.store.interventions.add(Intervention(*pin))
    site.sign_in("trust-admins")
    return site


def test_the_page_names_who_did_what_and_why(site: Any) -> None:
    """Newest first, every text as text, with a link to the agent and to all acts of that person."""
    page = site.browser.get("/console/acts")
    assert page.status_code == 200
    text = page.text
    assert text.index("console:person-2") < text.index("console:person-1") < text.index("console:person-0")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert "fixed the level" in text and "as critical" in text
    assert "/console/agent?tenant=acme" in text and "/console/acts?by=console%3Aperson-1" in text


def test_the_page_is_narrowed(site: Any) -> None:
    """By person, kind, agent, tenant and time; what can not be read is said."""
    for query, shown in (
        ({"by": "console:person-1"}, {1}),
        ({"kind": "pin", "tenant": "acme"}, {0, 1}),
        ({"agent": "theirs", "tenant": "globex", "issuer": "https://as.example"}, {2}),
        ({"kind": "case"}, set()),
        ({"since": "2020-01-01"}, {0, 1, 2}),
        ({"until": "2020-01-01"}, set()),
    ):
        text = site.browser.get("/console/acts", params=query).text
        assert {number for number in range(3) if f">console:person-{number}</a>" in text} == shown, query
    for wrong in ({"since": "noon"}, {"kind": "coffee"}):
        assert site.browser.get("/console/acts", params=wrong).status_code == 400


def test_files_hold_what_the_page_shows(site: Any) -> None:
    """As CSV no text is a formula; as JSON all is as it was."""
    answer = site.browser.get("/console/acts/file.csv", params={"tenant": "acme"})
    assert answer.headers["content-disposition"] == 'attachment; filename="acts.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["by"] for row in rows] == ["console:person-1", "console:person-0"]
    assert rows[1]["why"] == f"'{HOSTILE}"
    assert not any((value or "").startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    found = msgspec.json.decode(site.browser.get("/console/acts/file.json").content)
    assert found["complete"] and [act["why"] for act in found["acts"]] == ["of globex", "leaked", HOSTILE]
    assert site.browser.get("/console/acts/file.pdf").status_code == 422


def test_a_file_of_some_says_so(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its name, and as JSON within."""
    monkeypatch.setattr(table_file, "MAX_ROWS", 2)
    answer = site.browser.get("/console/acts/file.json")
    assert answer.headers["content-disposition"] == 'attachment; filename="acts-first-2.json"'
    assert answer.json()["complete"] is False and len(answer.json()["acts"]) == 2


def test_who_is_no_administrator_sees_none(site: Any) -> None:
    """Neither page nor file, nor the entry of the menu; an administrator of one tenant sees that tenant's."""
    site.sign_in("soc")
    assert site.browser.get("/console/acts").status_code == 403
    assert site.browser.get("/console/acts/file.csv").status_code == 403
    assert "/console/acts" not in site.browser.get("/console/").text
    site.sign_in("blind")
    text = site.browser.get("/console/acts").text
    assert "person-1" in text and "person-2" not in text
