"""What a packed body can cost."""

from __future__ import annotations

import gzip
import time

import pytest

from trustwatch.api.events.service import parse_foreign_dead_letter
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.formats.bodies import (
    JSON_MEDIA_TYPE,
    MAX_BODY_BYTES,
    BodyTooLarge,
    decompress_body,
    parse_foreign_body,
)
from trustwatch.ingest.formats.record_mapping import MappingSpec, RecordMapping


def test_members_are_read_one_after_the_other() -> None:
    """Wherever they end: within a block of input, and beyond one."""
    parts = [bytes([number % 251]) * (number * 613) + bytes(range(256)) * number for number in range(9)]
    assert decompress_body(b"".join(map(gzip.compress, parts)), "gzip") == b"".join(parts)


def test_very_many_empty_members_cost_no_more_than_their_bytes() -> None:
    """2 MB of them took 8 s when the rest of the body was copied at each."""
    empty = gzip.compress(b"")
    start = time.perf_counter()
    assert decompress_body(empty * 100_000, "gzip") == b""
    assert time.perf_counter() - start < 4


@pytest.mark.parametrize("cut", [1, 9, 5_000])
def test_a_member_that_is_not_whole_is_malformed(cut: int) -> None:
    packed = gzip.compress(bytes(range(256)) + b"x") + gzip.compress(bytes(hash(str(n)) & 255 for n in range(20_000)))
    with pytest.raises(MalformedEvent, match="gzip"):
        decompress_body(packed[:-cut], "gzip")


def test_what_is_inside_is_bounded() -> None:
    assert len(decompress_body(gzip.compress(b" " * MAX_BODY_BYTES), "gzip")) == MAX_BODY_BYTES
    for packed in (
        gzip.compress(b" " * (MAX_BODY_BYTES + 1)),
        gzip.compress(b" " * MAX_BODY_BYTES) + gzip.compress(b" "),
    ):
        with pytest.raises(BodyTooLarge):
            decompress_body(packed, "gzip")


WRAPPED = MappingSpec(
    members={"time": "at", "agent.id": "who", "type": "'other'", "action": "'x'", "outcome": "'success'"},
    records="items",
)


def test_a_page_of_too_many_records_is_too_large() -> None:
    """None of them is decoded: a small body would take gigabytes."""
    body = b'{"items": [' + b"{}," * 400_000 + b"{}]}"
    with pytest.raises(BodyTooLarge, match="more than 10000 records"):
        parse_foreign_body(JSON_MEDIA_TYPE, body, RecordMapping(WRAPPED))
    with pytest.raises(BodyTooLarge, match="more than 10000 records"):
        parse_foreign_body("application/x-ndjson", body + b"\n" + body, RecordMapping(WRAPPED))


def test_what_is_in_a_dead_letter_is_no_record_of_its_own() -> None:
    """It was cut before it was refused."""
    letter = b'{"note": 1, "items": [{"at": "2026-03-02T08:00:00Z", "who": "victim"}]}'

    assert len(RecordMapping(WRAPPED)(letter, {}).records) == 1
    (record,) = parse_foreign_dead_letter(letter, RecordMapping(WRAPPED))
    assert record.raw == letter and record.to_native is not None
    with pytest.raises(MalformedEvent, match="mapping member `time`: has no value"):
        record.to_native()
