"""Agents that fit are found, whatever they are called: looking through all names at once passes none over."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.api.search import service
from trustwatch.api.search.query import SearchQuery, parse_search_query
from trustwatch.scoring.records.agents import AgentName, AgentSummary

NOW = 1_764_000_000_000
NAMES = ("bot", "Bot-1", "robot\nbot", "\n", "", "K\u212aİ-7", "ärger", "a.b_c-d", "bo", "t", "x\u0130y")
PARTS = st.lists(st.sampled_from(("bo", "t", "K", "\u212a", "İ", "ä", "-", "1", "\n", ".b", "X")), max_size=4)


class Entry:
    """An agent in memory."""

    def __init__(self, agent_id: str, agent_type: str) -> None:
        name = AgentName(1, "acme", "https://as.example", agent_id)
        self.summary = AgentSummary(name, agent_type, 1, 0.1, 0.9, 0.5, 0, NOW, 0, 0, 10, "", b"", "")


def found(entries: list[Entry], query: SearchQuery) -> list[tuple[str, str]]:
    """Id and type of the agents that fit."""
    items = service.find_agents(cast(Any, entries), query, None, 1_000, lambda: False).items
    return sorted((one.name.agent_id, one.agent_type) for one in items)


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.one_of(st.sampled_from(NAMES), PARTS.map("".join)), max_size=8),
    types=st.lists(st.sampled_from(("Robot", "BOT", "", "ärger")), min_size=8, max_size=8),
    words=st.lists(
        st.sampled_from(("bot", "BO", "k", "i-7", "ä", "b*t", "agent:bot", "agent:b*", "agent:*1")), min_size=1
    ),
)
def test_the_quick_look_passes_nobody_over(ids: list[str], types: list[str], words: list[str]) -> None:
    """The same agents as when each is asked by itself."""
    entries = [Entry(*one) for one in zip(ids, types, strict=False)]
    query = parse_search_query(" ".join(words[:4]), NOW)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service, "SAMPLED", 0)
        quick = found(entries, query)
        patched.setattr(service, "_may_fit", lambda agents, _: agents)
        assert quick == found(entries, query)


def test_what_fits_is_found_in_id_and_type() -> None:
    """In whatever case; the field is the whole id."""
    entries = [Entry("bot", "x"), Entry("Robot-2", "x"), Entry("z", "BOT"), Entry("y", "x")]
    assert found(entries, parse_search_query("bot", NOW)) == [("Robot-2", "x"), ("bot", "x"), ("z", "BOT")]
    assert found(entries, parse_search_query("agent:Rob*", NOW)) == [("Robot-2", "x")]
    assert found(entries, parse_search_query("agent:bot", NOW)) == [("bot", "x")]
    assert found(entries, parse_search_query("bot 2", NOW)) == [("Robot-2", "x")]
