"""Many names looked up at once: whoever stands in a record is found as by asking for each, however JSON writes it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.record_erasure import (
    ErasedFilter,
    ErasedSubject,
    ErasureSubject,
    MultiPatternSearch,
    NameEraser,
    RecordEraser,
)
from trustwatch.ingest.source import Record, RecordKind

NAMES = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(["agent-", "https://as.example/", "Zoë "]).flatmap(
        lambda head: st.text(max_size=12).map(head.__add__)
    ),
)
BODIES = st.sampled_from(["{}", "call {} now", "a/{}", "joann{}", "{}-2", '"{}"', "{}\n"])


@given(st.lists(NAMES, min_size=1, max_size=12, unique=True), st.data())
def test_nobody_is_overlooked(names: list[str], data: st.DataObject) -> None:
    """Of plain, escaped and foreign ways to write it; what is told beyond that, a closer look says."""
    erasers = [NameEraser(name, "erased") for name in names]
    found = MultiPatternSearch([one.needles for one in erasers])
    said = data.draw(BODIES).replace("{}", data.draw(st.sampled_from(names)))
    for raw in (
        json.dumps({"peer": said}).encode(),
        json.dumps({said: 1}, ensure_ascii=False).encode("utf-8", "replace"),
    ):
        there = {number for number, one in enumerate(erasers) if one.is_in_bytes(raw)}
        assert there <= set(found.candidates(raw))


def test_a_topic_is_read_as_each_eraser_would_read_it() -> None:
    """In the order of the erasures; commands and refused inputs are read by all."""
    who = [
        ErasureSubject("agent", "acme", "https://as", f"agent-number-{number}", f"erased~{number}")
        for number in range(50)
    ]
    events = [
        {
            "tenant": "acme",
            "agent": {"id": f"agent-number-{number}", "issuer": "https://as"},
            "peer": f"agent-number-{other}",
        }
        for number, other in [(3, 4), (60, 7), (61, 62), (60, 49)]
    ]
    records = [Record(RecordKind.EVENT, 1, 1, json.dumps(one).encode()) for one in events]
    records.append(
        Record(RecordKind.DEAD, 1, 1, json.dumps({"raw": "YWdlbnQtbnVtYmVyLTk="}).encode())
    )  # agent-number-9
    unread = ErasedFilter([ErasedSubject(one, {0: 10}) for one in who])
    for record in records:
        wanted = record
        for one in who:
            wanted = RecordEraser(one)(wanted)
        assert unread.filter_record(0, 5, record) == wanted
    assert [unread.filter_record(0, 5, one).kind for one in records].count(RecordKind.ERASED) == 2
