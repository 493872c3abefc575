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


def test_a_filter_has_a_bound(site: Any) -> None:
    answer = site.browser.get("/console/decisions", params={"agent": "x" * 2049})
    assert answer.status_code == 422 and "2048 characters" in answer.text
