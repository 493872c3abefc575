"""A name leaves what was written down, as a whole and nothing else."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.identities import unkeyed_agent_key
from trustwatch.ingest.record_erasure import (
    ErasedFilter,
    ErasedSubject,
    ErasureSubject,
    MultiPatternSearch,
    NameEraser,
    RecordEraser,
)
from trustwatch.ingest.source import Record, RecordBatch, RecordKind

AGENT = ErasureSubject("agent", "acme", "https://as", "agent-7", "erased:1")
PERSON = ErasureSubject("principal", "acme", "", "ann@acme.example", "erased:2")


def event(**values: object) -> Record:
    body = {"tenant": "acme", "agent": {"id": "other", "issuer": "https://as"}, "action": "read", **values}
    return Record(RecordKind.EVENT, 17, 5, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann", True),
        ("user:ann", True),
        ("ann, bob", True),
        ("/home/ann/x", True),
        ("(ann)", True),
        ("ann.", True),
        ("joann", False),
        ("ann-2", False),
        ("ann.smith", False),
        ("ann@example.org", False),
        ("an", False),
        ("x.ann", False),
        ("bob@ann", False),
        ("ann_2", False),
        ("änn", False),
        ("annä", False),
        ("", False),
    ],
)
def test_a_name_is_found_as_a_whole(text: str, found: bool) -> None:
    eraser = NameEraser("ann", "X")

    assert eraser.is_in_text(text) is found
    assert eraser.erase_in_text(text) == (text.replace("ann", "X") if found else text)


def test_names_in_json_however_they_are_escaped() -> None:
    """In values, lists, members and escapes; what does not name it stays the same object."""
    eraser = NameEraser('ä"\\n', "X")
    raw = json.dumps({'ä"\\n': ["a", {"b": 'to ä"\\n!'}], "c": 1.5}).encode()
    other = b'{"a": "\\u00e4"}'

    assert b"\\u00e4" in raw
    assert eraser.is_in_bytes(raw)
    assert json.loads(eraser.erase_in_json(raw)) == {"X": ["a", {"b": "to X!"}], "c": 1.5}
    kept = json.loads(eraser.erase_in_json(raw, keep_members=True))
    assert kept == {'ä"\\n': ["a", {"b": "to X!"}], "c": 1.5}
    assert eraser.erase_in_json(other) is other
    assert eraser.erase_in_json('no { ä"\\n'.encode()) == b"no { X"


def test_an_agents_own_events_go_and_others_stay() -> None:
    """Place, arrival and event id stay; events of others name a pseudonym; other tenants are not touched."""
    erase = RecordEraser(AGENT)
    own = event(agent={"id": "agent-7", "issuer": "https://as"})
    elsewhere = event(agent={"id": "agent-7", "issuer": "https://as"}, tenant="globex")
    naming = event(peer="agent-7", delegation=["other", "agent-7"])
    similar = event(peer="agent-70")

    assert erase(own) == Record(RecordKind.ERASED, 17, 5, b"")
    assert erase(elsewhere) is elsewhere
    assert erase(similar) is similar
    assert json.loads(erase(naming).payload)["delegation"] == ["other", "erased:1"]
    assert erase(naming)[:3] == naming[:3]
    assert erase(erase(naming)) == erase(naming)


def test_the_same_name_at_another_issuer_is_another_agent() -> None:
    erase = RecordEraser(AGENT)
    twin = event(agent={"id": "agent-7", "issuer": "https://other"})

    assert erase(twin) is twin


def test_a_principal_is_replaced() -> None:
    record = event(principal={"id": "ann@acme.example", "type": "user"}, resource={"id": "mail/ann@acme.example"})
    left = json.loads(RecordEraser(PERSON)(record).payload)

    assert left["principal"]["id"] == "erased:2"
    assert left["resource"]["id"] == "mail/erased:2"


def test_refused_inputs_that_name_it_go() -> None:
    """Their bytes are looked into; so are commands."""
    raw = base64.b64encode(b"broken { ann@acme.example").decode()
    dead = Record(RecordKind.DEAD, 0, 5, json.dumps({"letter_id": "L", "raw": raw}).encode())
    other = Record(
        RecordKind.DEAD, 0, 5, json.dumps({"letter_id": "L", "raw": base64.b64encode(b"x").decode()}).encode()
    )
    key = str(unkeyed_agent_key("acme", "https://as", "agent-7"))
    release = Record(RecordKind.CONTROL, 0, 5, json.dumps({"command": "release", "key": key, "by": "bob"}).encode())
    by_her = Record(
        RecordKind.CONTROL, 0, 5, json.dumps({"command": "release", "key": "1", "by": PERSON.name}).encode()
    )
    forget = Record(RecordKind.FORGET, 0, 5, json.dumps({"subject": PERSON.name}).encode())
    tick = Record(RecordKind.TICK, 0, 5, bytes(8))

    assert RecordEraser(PERSON)(dead).kind == RecordKind.ERASED
    assert RecordEraser(PERSON)(other) is other
    assert RecordEraser(AGENT)(release).kind == RecordKind.ERASED
    assert json.loads(RecordEraser(PERSON)(by_her).payload)["by"] == "erased:2"
    assert RecordEraser(PERSON)(forget).kind == RecordKind.ERASED
    assert RecordEraser(PERSON)(tick) is tick


@pytest.mark.parametrize(
    "payload",
    [
        b'{"command":"feedback.adopt","rule":{"tenant":"globex","features":["ann"]},"by":"ann","why":"ann"}',
        b'{"tenant":"globex","name":"ann"}',
        b'{"command":"model.switch","version":"m1","digest":"ann","by":"x"}',
    ],
)
def test_commands_of_other_tenants_and_about_models_stay(payload: bytes) -> None:
    """They have words in common with a name, and mean nobody of that tenant."""
    record = Record(RecordKind.CONTROL, 0, 1, payload)

    assert RecordEraser(ErasureSubject("principal", "acme", "", "ann", "erased~1"))(record) is record


BOT = ErasureSubject("agent", "acme", "https://as", "bot", "erased~1")


def event_of(agent: str, number: int, **more: str) -> Record:
    body = {"tenant": "acme", "agent": {"id": agent, "issuer": "https://as"}, **more}
    return Record(RecordKind.EVENT, number, 1000 + number, json.dumps(body).encode())


def test_before_the_order_and_not_behind_it() -> None:
    """Own events become erased ones with their hash, others' name a pseudonym, the order and later events stay."""
    order = Record(RecordKind.FORGET, 0, 1003, b'{"name": "bot"}')
    records = [event_of("bot", 1), event_of("other", 2, peer="bot"), order, event_of("bot", 4)]
    unread = ErasedFilter([ErasedSubject(BOT, {2: 12})])
    read = unread.filter_batch(RecordBatch(2, 10, records)).records

    assert read[0] == Record(RecordKind.ERASED, 1, 1001, b"")
    assert json.loads(read[1].payload)["peer"] == "erased~1"
    assert read[2:] == records[2:]


def test_what_is_not_concerned_is_the_same_object() -> None:
    """Another partition, and all behind the order, cost nothing."""
    unread = ErasedFilter([ErasedSubject(BOT, {2: 12}), ErasedSubject(BOT._replace(name="none"), {})])
    for batch in (RecordBatch(1, 0, [event_of("bot", 1)]), RecordBatch(2, 13, [event_of("bot", 1)])):
        assert unread.filter_batch(batch) is batch
    assert ErasedFilter().filter_record(0, 0, event_of("bot", 1)).kind == RecordKind.EVENT


def test_each_erasure_has_its_own_offset() -> None:
    """Two of them, one after the other: between their orders only the later one counts."""
    other = ErasureSubject("agent", "acme", "https://as", "other", "erased~2")
    unread = ErasedFilter([ErasedSubject(BOT, {0: 5}), ErasedSubject(other, {0: 9})])

    assert unread.filter_record(0, 7, event_of("bot", 1)).kind == RecordKind.EVENT
    assert unread.filter_record(0, 7, event_of("other", 1)).kind == RecordKind.ERASED


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
