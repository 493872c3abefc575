"""A topic that can not be rewritten is read without who was erased: before the order, and in no other partition."""

from __future__ import annotations

import json

from trustwatch.ingest.record_erasure import ErasedFilter, ErasedSubject, ErasureSubject
from trustwatch.ingest.source import Record, RecordBatch, RecordKind

BOT = ErasureSubject("agent", "acme", "https://as", "bot", "erased~1")


def event(agent: str, number: int, **more: str) -> Record:
    body = {"tenant": "acme", "agent": {"id": agent, "issuer": "https://as"}, **more}
    return Record(RecordKind.EVENT, number, 1000 + number, json.dumps(body).encode())


def test_before_the_order_and_not_behind_it() -> None:
    """Own events become erased ones with their hash, others' name a pseudonym, the order and later events stay."""
    order = Record(RecordKind.FORGET, 0, 1003, b'{"name": "bot"}')
    records = [event("bot", 1), event("other", 2, peer="bot"), order, event("bot", 4)]
    unread = ErasedFilter([ErasedSubject(BOT, {2: 12})])
    read = unread.filter_batch(RecordBatch(2, 10, records)).records

    assert read[0] == Record(RecordKind.ERASED, 1, 1001, b"")
    assert json.loads(read[1].payload)["peer"] == "erased~1"
    assert read[2:] == records[2:]


def test_what_is_not_concerned_is_the_same_object() -> None:
    """Another partition, and all behind the order, cost nothing."""
    unread = ErasedFilter([ErasedSubject(BOT, {2: 12}), ErasedSubject(BOT._replace(name="none"), {})])
    for batch in (RecordBatch(1, 0, [event("bot", 1)]), RecordBatch(2, 13, [event("bot", 1)])):
        assert unread.filter_batch(batch) is batch
    assert ErasedFilter().filter_record(0, 0, event("bot", 1)).kind == RecordKind.EVENT


def test_each_erasure_has_its_own_offset() -> None:
    """Two of them, one after the other: between their orders only the later one counts."""
    other = ErasureSubject("agent", "acme", "https://as", "other", "erased~2")
    unread = ErasedFilter([ErasedSubject(BOT, {0: 5}), ErasedSubject(other, {0: 9})])

    assert unread.filter_record(0, 7, event("bot", 1)).kind == RecordKind.EVENT
    assert unread.filter_record(0, 7, event("other", 1)).kind == RecordKind.ERASED
