"""Events that fit are found, whatever a query names them by: no record is passed over that has what is asked for."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.api.agents.recent_events import EventLocations
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.search.event_search import event_fits, search_stored_events, texts_of_event
from trustwatch.api.search.query import SearchQuery, SearchTerm, parse_search_query
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind

NOW = 1_764_000_000_000


def record(number: int, **members: Any) -> bytes:
    made = {
        "id": f"evt-{number}",
        "time": "2025-11-24T15:00:00Z",
        "type": "tool.call",
        "tenant": "acme",
        "agent": {"id": "bot", "issuer": "https://as.example"},
        "action": "read_file",
        "outcome": "success",
        **members,
    }
    return json.dumps(made, ensure_ascii=bool(number % 2)).encode()


RECORDS = [
    record(0),
    record(1, client={"ip": "203.0.113.7", "asn": 64500, "user_agent": "Curl/8.9"}),
    record(2, client={"ip": "203.0.113.77"}, credential={"method": "private_key_jwt", "thumbprint": "k-2"}),
    record(3, client={"ip": "2001:db8::7"}, credential={"thumbprint": "abc"}),
    record(4, resource={"id": "ledger", "external": True}, session="S-9"),
    record(5, resource={"type": "mail", "target": "Ärger@evil.example"}, action="löschen"),
    record(
        6, agent={"id": "plän-\u212a7", "issuer": "https://as.example", "instance": "i-1"}, outcome="denied", error="no"
    ),
    record(
        7, principal={"id": "ann@acme.example", "type": "user"}, peer="helper", delegation=["root", "bot"], task="t-1"
    ),
]
EVENTS = [decode_event(raw) for raw in RECORDS]
NAMES = sorted({text for event in EVENTS for named in texts_of_event(event).values() for text in named if text})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with the records."""
    folder = tmp_path_factory.mktemp("log") / "log"
    with closing(EventLog(folder)) as opened:
        opened.append([Record(RecordKind.EVENT, 0, NOW, raw) for raw in RECORDS])
        opened.sync()
    return folder


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("party:helper", ["evt-7"]),
        ("party:root party:bot agent:bot", ["evt-7"]),
        ("party:pl*7", ["evt-6"]),
        ("party:root party:helper", ["evt-7"]),
        ("agent:helper", []),
        ("party:ann@acme.example", []),
    ],
)
def test_an_agent_takes_part_in_what_it_is_named_in(log: Path, asked: str, ids: list[str]) -> None:
    """It acted, was called, or stands in the delegation; on whose behalf is somebody else."""
    assert found(log, parse_search_query(asked, NOW)) == ids


def found(log: Path, query: SearchQuery) -> list[str | None]:
    result = search_stored_events(EventLocations(log, None), query, None, (), 50, lambda: False)
    assert result.complete
    return sorted(str(one.event.id) for one in result.events)


TERMS = st.one_of(
    st.sampled_from(NAMES),
    st.builds(lambda name, a, b: name[min(a, b) : max(a, b) + 1], st.sampled_from(NAMES), *[st.integers(0, 20)] * 2),
    st.builds("{}:{}".format, st.sampled_from(sorted(texts_of_event(EVENTS[0]))), st.sampled_from(NAMES)),
    st.builds(
        lambda field, name, cut: f"{field}:{name[:cut]}*",
        st.sampled_from(sorted(texts_of_event(EVENTS[0]))),
        st.sampled_from(NAMES),
        st.integers(0, 9),
    ),
    st.sampled_from(
        ["AS64500", "as64500", "network:AS645*", "203.0.113.0/24", "address:203.0.0.0/16", "2001:db8::/64"]
    ),
    st.sampled_from(["unknown", "no target", "credential:*abc", "bot", "helper", "root", "t-1", "no"]),
)


@given(st.lists(TERMS, min_size=1, max_size=2))
@settings(max_examples=150, deadline=None)
def test_what_fits_is_found(log: Path, words: list[str]) -> None:
    """Beside a look at every event without its bytes."""
    try:
        query = parse_search_query(" ".join(f'"{word}"' for word in words), NOW)
    except ProblemError:
        return
    assert found(log, query) == sorted(str(event.id) for event in EVENTS if event_fits(event, query))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("AS64500", ["evt-1"]),
        ("as64500", ["evt-1"]),
        ("network:AS645*", ["evt-1"]),
        ("203.0.113.0/24", ["evt-2"]),
        ("address:203.0.113.0/24", ["evt-1", "evt-2"]),
        ('credential:"private_key_jwt k-2"', ["evt-2"]),
        ("target:ledger", ["evt-4"]),
        ("LÖSCHEN", ["evt-5"]),
        ("unknown", []),
    ],
)
def test_derived_names_are_found(log: Path, text: str, ids: list[str]) -> None:
    """A network is written nowhere: it is known by number or address."""
    assert found(log, parse_search_query(text, NOW)) == ids


def test_the_newest_are_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ends early has the newest, and says that there may be more."""
    monkeypatch.setattr("trustwatch.api.search.event_search.LOG_WINDOW", 3)
    with closing(EventLog(tmp_path / "log")) as opened:
        opened.append([Record(RecordKind.EVENT, 0, NOW, record(n)) for n in range(10)])
        opened.sync()
    locations = EventLocations(tmp_path / "log", None)
    query = SearchQuery((SearchTerm("agent", "bot"),))

    def ids(limit: int, expired: Any) -> tuple[list[str | None], int | None, bool]:
        result = search_stored_events(locations, query, None, (), limit, expired)
        return [one.event.id for one in result.events], result.logged, result.complete

    assert ids(50, lambda: True) == (["evt-9", "evt-8", "evt-7"], 3, False)
    assert ids(4, lambda: False) == (["evt-9", "evt-8", "evt-7", "evt-6"], 6, False)
    assert ids(10, lambda: False) == ([f"evt-{n}" for n in range(9, -1, -1)], 10, True)
    assert ids(9, lambda: False)[1:] == (10, False)
