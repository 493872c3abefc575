"""Whatever is sent to the door, the answer is one that the API declares, and nothing is both refused and lost."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.ingest.events import decode_event
from trustwatch.ingest.source import RecordKind

KINDS = [
    "application/json",
    "application/x-ndjson",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = [
    *("id", "time", "type", "tenant", "agent", "action", "outcome", "resource", "count", "specversion", "data", "x")
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_body_gets_a_declared_answer(shared: Any, event: Any, data: st.DataObject, kind: str) -> None:
    """Changed events, arbitrary JSON and arbitrary bytes: 202 or 400, never 500; what is logged decodes."""
    changed = st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=3).map(lambda members: event() | members)
    bodies = st.one_of(
        st.lists(changed, max_size=3).map(msgspec.json.encode),
        changed.map(msgspec.json.encode),
        JSON.map(msgspec.json.encode),
        st.binary(max_size=64),
    )
    body = data.draw(bodies)
    before = shared.event_log.next_offset

    answer = shared.send(body, "all", kind=kind)

    receipt = answer.json()
    assert answer.status_code in (202, 400)
    assert shared.event_log.next_offset - before == receipt["accepted"] + receipt["rejected"]
    assert (answer.status_code == 400) == (receipt["rejected"] > 0 == receipt["accepted"] + receipt["duplicate"])


def test_what_was_taken_can_be_read_by_the_pipeline(shared: Any, event: Any) -> None:
    shared.send(event(), "all")

    records = shared.logged(RecordKind.EVENT)
    assert records
    for record in records:
        decode_event(record.payload)
