"""Shapes that a list of the console can be asked for: filters, columns and order, as its address says them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from ...http.auth.callers import SCOPE_ADMIN, SCOPE_SCORE_READ
from ...http.problems import invalid_value_error

COLUMN, SORT = "column", "sort"
"""Parameters of every list: a column that is shown (repeated; none = all), and the one that orders the rows."""
MAX_VALUES, MAX_VALUE_LENGTH, MAX_QUERY_LENGTH = 50, 2048, 8192
"""Bounds of what a view keeps."""

ListQuery = dict[str, list[str]]


class ListShape(NamedTuple):
    """One list.

    Attributes:
        page: its name, which is the end of its path, too.
        scope: what a person needs to see it.
        filters: parameters that narrow it.
        columns: names of its columns with their headings, in order.
        leading: the column that is always shown: it leads to what a row is about.
    """

    page: str
    scope: str
    filters: Sequence[str]
    columns: Mapping[str, str]
    leading: str

    @property
    def path(self) -> str:
        """Path of its page."""
        return f"/console/{self.page}"

    def url(self, query: ListQuery) -> str:
        """URL of the page; a filter that is empty on purpose stays."""
        return f"{self.path}?{urlencode(query, doseq=True)}" if query else self.path

    def shown_columns(self, asked: Iterable[str]) -> list[str]:
        """Columns that are shown, in order."""
        given = {name for name in asked if name in self.columns}
        return [name for name in self.columns if not given or name in given or name == self.leading]

    def order(self, asked: str) -> str:
        """The order that is asked for: a column, `-` before it where the last come first; "" = as it comes."""
        return asked if asked.removeprefix("-") in self.columns else ""

    def clean_query(self, pairs: Iterable[tuple[str, str]]) -> ListQuery:
        """Parts of an address that make a view: its filters, columns that are not all, an order that there is."""
        given: ListQuery = {}
        for name, value in pairs:
            given.setdefault(name, []).append(value)
        query = {name: given[name] for name in self.filters if name in given}
        columns = self.shown_columns(given.get(COLUMN, ()))
        if len(columns) < len(self.columns):
            query[COLUMN] = columns
        if order := self.order(given.get(SORT, [""])[-1]):
            query[SORT] = [order]
        return query

    def read_query(self, text: str) -> ListQuery:
        """Parts of the query of an address that make a view. Raises ProblemError (422): it is too long."""
        if len(text) > MAX_QUERY_LENGTH:
            raise invalid_value_error("query", f"a view may have {MAX_QUERY_LENGTH} characters: ask for less")
        try:
            pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=MAX_VALUES)
        except ValueError:
            raise invalid_value_error("query", f"a view may have {MAX_VALUES} values: ask for less") from None
        if any(len(value) > MAX_VALUE_LENGTH for _, value in pairs):
            raise invalid_value_error("query", f"a value may have {MAX_VALUE_LENGTH} characters")
        return self.clean_query(pairs)


AGENTS: Final = ListShape(
    "agents",
    SCOPE_SCORE_READ,
    ("level", "tenant", "type", "text"),
    {
        "level": "Level",
        "agent": "Agent",
        "type": "Type",
        "tenant": "Tenant",
        "risk": "Risk",
        "confidence": "Confidence",
        "events": "Events",
        "seen": "Last event",
        "why": "Why",
    },
    "agent",
)
DECISIONS: Final = ListShape(
    "decisions",
    SCOPE_SCORE_READ,
    ("agent", "tenant", "issuer", "level", "change", "since", "until", "indicator"),
    {
        "decided": "Decided",
        "event": "Event",
        "agent": "Agent",
        "level": "Level",
        "reason": "Leading reason",
        "risk": "Risk",
        "mode": "Mode",
    },
    "decided",
)
CASES: Final = ListShape(
    "cases",
    SCOPE_SCORE_READ,
    ("status", "owner", "level", "agent", "tenant", "since", "until"),
    {
        "case": "Case",
        "status": "Status",
        "highest": "Highest",
        "reason": "Leading reason",
        "agents": "Agents",
        "owner": "Owner",
        "risen": "Last rise",
        "opened": "Opened",
    },
    "case",
)
ACTS: Final = ListShape(
    "acts",
    SCOPE_ADMIN,
    ("by", "kind", "agent", "tenant", "issuer", "since", "until"),
    {"when": "When", "who": "Who", "what": "What", "agent": "Agent", "tenant": "Tenant", "why": "Why"},
    "what",
)

SHAPES: Final[Mapping[str, ListShape]] = {shape.page: shape for shape in (AGENTS, DECISIONS, CASES, ACTS)}
"""Lists by their name."""
