"""Lists of the console: filters, columns and order in the address."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ....support.console_records import row_of


@pytest.fixture
def site(site: Any) -> Any:
    """With an agent, and an administrator signed in."""
    site.know(row_of("bot", "acme"))
    assert site.sign_in("trust-admins").status_code == 303
    return site


def heads(text: str) -> list[str]:
    """Headings of the table."""
    return re.findall(r'<th scope="col" data-column="(\w+)"', text)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (["why", "risk"], ["agent", "risk", "why"]),
        (["agent"], ["agent"]),
        (["coffee"], ["level", "agent", "type", "tenant", "risk", "confidence", "events", "seen", "why"]),
    ],
    ids=["two and the leading one", "the leading one alone", "none that there is"],
)
def test_columns_are_chosen_by_the_address(site: Any, columns: list[str], shown: list[str]) -> None:
    """In the order of the list; each row has as many cells as there are heads, and the boxes say the same."""
    text = site.browser.get("/console/agents", params={"column": columns}).text
    assert heads(text) == shown
    row = text.partition("<tbody>")[2].partition("</tr>")[0]
    assert row.count("<td") == len(shown)
    ticked = re.findall(r'name="column" value="(\w+)" checked', text)
    assert ticked == [name for name in shown if name != "agent"]


def test_the_address_is_the_view(site: Any) -> None:
    """Filters, columns and order of an address are in the forms of the page: a bookmark shows the same again."""
    query = "level=high&level=low&text=%3Cb%3E&column=agent&column=why&sort=-why&evil=1"
    page = site.browser.get(f"/console/agents?{query}").text
    assert 'value="high" checked' in page and 'value="low" checked' in page and 'value="medium" checked' not in page
    assert 'value="&lt;b&gt;"' in page and "<b>" not in page
    assert 'name="sort" value="-why" data-sort' in page
    assert 'name="sort" value="" disabled' in site.browser.get("/console/agents?sort=coffee").text


def test_links_of_a_list_keep_columns_and_any_status(site: Any) -> None:
    """The files and the live list of cases of any status are of any status, too."""
    text = site.browser.get("/console/cases", params={"status": "", "column": ["case", "owner"], "sort": "owner"}).text
    assert 'hx-get="/console/cases?status=any&amp;column=case&amp;column=owner&amp;sort=owner"' in text
    again = site.browser.get("/console/cases", params={"status": "any"}).text
    assert '<option value="">any</option>' in again and 'value="unresolved" selected' not in again


def test_a_filter_has_a_bound(site: Any) -> None:
    answer = site.browser.get("/console/decisions", params={"agent": "x" * 2049})
    assert answer.status_code == 422 and "2048 characters" in answer.text
