"""Records of a body as a process of the pool returns them."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.formats.bodies import (
    CHUNK_RECORDS,
    BodyFormat,
    BodyTooLarge,
    PackedRecords,
    ReadBody,
    read_body,
    read_body_in_worker,
)
from trustwatch.ingest.formats.raw_records import RawRecord

from ...support.format_samples import AUDIT_LOG_SAMPLES, audit_log_records

TEXT = {"content-type": "application/x-ndjson"}


def content(record: RawRecord) -> tuple[object, ...]:
    """Everything that the intake reads of a record."""
    try:
        native: object = None if record.to_native is None else record.to_native()
    except MalformedEvent as error:
        native = (error.reason, error.path)
    around = record.enclosure
    copies = None if around is None else (around.before, around.after, around.surroundings.length(short=True))
    return record.raw, native, record.path_prefix, copies


def read_both(body: bytes, coding: str, headers: dict[str, str], body_format: BodyFormat) -> tuple[ReadBody, ReadBody]:
    here = read_body(body, coding, headers, body_format)
    there = pickle.loads(pickle.dumps(read_body_in_worker(body, coding, headers, body_format)))
    assert isinstance(there, ReadBody)
    return here, there


@pytest.mark.parametrize("name", sorted(AUDIT_LOG_SAMPLES))
def test_records_are_the_same_from_another_process(name: str) -> None:
    records = audit_log_records(name)
    body = b"\n".join(json.dumps(record).encode() for record in records * 40)

    here, there = read_both(gzip.compress(body, mtime=0), "gzip", TEXT, BodyFormat(name))

    assert (here.size, here.skipped, here.malformed) == (there.size, there.skipped, there.malformed)
    assert list(map(content, here.records)) == list(map(content, there.records))
    assert len(there.records) == len(here.records) > 0


@given(st.integers(0, 3 * CHUNK_RECORDS), st.slices(3 * CHUNK_RECORDS))
def test_any_part_of_packed_records_is_that_of_the_list(count: int, part: slice) -> None:
    records = [RawRecord(b"%d" % number) for number in range(count)]
    packed = PackedRecords(records)

    assert [record.raw for record in packed[part]] == [record.raw for record in records[part]]
    assert [record.raw for record in packed] == [record.raw for record in records]


def test_what_is_wrong_with_a_body_comes_back() -> None:
    _, malformed = read_both(b"[1,", "", {"content-type": "application/json"}, BodyFormat())
    too_large = read_body_in_worker(b"{}\n" * 10_001, "", TEXT, BodyFormat())

    assert malformed.malformed is not None and malformed.malformed[2] == b"[1,"
    assert isinstance(too_large, tuple) and too_large[0] is BodyTooLarge and "10000" in too_large[1]
