"""JSON cut into records without reading it whole: whatever it looks like, and wherever blocks end."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.history import json_cutting
from trustwatch.ingest.history.json_cutting import BrokenJson, JsonCutter

RECORDS: list[dict[str, Any]] = [
    {"a": 1, "text": 'brackets ]}{[ and "quotes" \\ and \\"'},
    {"nested": [{"b": [1, 2, {}]}, []], "empty": ""},
    {"c": {"d": "é\u2028"}},
]
TEXTS = {
    "array": json.dumps(RECORDS),
    "pretty array": json.dumps(RECORDS, indent=2, ensure_ascii=False),
    "lines": "\n".join(map(json.dumps, RECORDS)),
    "pretty objects": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "wrapped": json.dumps({"Records": RECORDS}),
    "wrapped behind others": json.dumps({"@odata.context": "x", "n": 1, "o": {"value": []}, "value": RECORDS, "z": 2}),
    "wrapped one by one": "\n".join(json.dumps({"records": [record]}) for record in RECORDS),
    "arrays behind each other": json.dumps(RECORDS[:1]) + json.dumps(RECORDS[1:]),
}


class Drops:
    """A stream that gives a few bytes at a time, whatever it is asked for."""

    def __init__(self, text: bytes, size: int) -> None:
        self._stream = io.BytesIO(text)
        self._size = size

    def read(self, _size: int) -> bytes:
        return self._stream.read(self._size)


def cut(text: str | bytes, size: int = 1 << 20) -> list[Any]:
    """Records of a text."""
    raw = text if isinstance(text, bytes) else text.encode()
    return [json.loads(record) for record in JsonCutter(Drops(raw, size)).records()]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("shape", TEXTS)
def test_records_are_found_in_every_shape(shape: str, size: int) -> None:
    assert cut(TEXTS[shape], size) == RECORDS


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_a_wrapper_larger_than_a_record_is_streamed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are handed out one by one, whatever stands around them."""
    monkeypatch.setattr(json_cutting, "MAX_RECORD_BYTES", 200)
    records = [{"n": n, "pad": "x" * 50} for n in range(20)]
    text = json.dumps({"kind": "List", "more": {"a": [1, "}"]}, "n": 1, "flag": None, "value": records, "end": True})

    assert cut(text, size) == records
    assert cut(json.dumps(records), size) == records


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"Records": [{"a": 1}, {"b": ', "record 1: the file ends in the middle of it"),
        ('[{"a": 1}, {"b": ', "record 2: the file ends in the middle of it"),
        ('[{"a": 1}', "record 2: the file ends in the middle of it"),
        ('{"a": "x', "record 1: the file ends in the middle of it"),
        ('[{"a": 1}, 2]', "record 2: records are objects"),
        ("true", "record 1: JSON begins with"),
        ('{"a": 1} and more', "record 2: JSON begins with"),
        ('{"big": "' + "x" * 300 + '", "a": 1}', "a member"),
        ('{"big": [' + "1," * 300 + '1], "a": 1}', "a member has more than 200 bytes"),
        ('{"a": 1, "b": 2, "c": [1], "d": {"e": "' + "x" * 80 + '"}, "f": "' + "y" * 90 + '"}', "none of the members"),
        ('[{"big": "' + "x" * 300 + '"}]', "it has more than 200 bytes"),
        ('{"a" 1, "value": [' + '{"b": 2},' * 50 + '{"b": 2}]}', "a member has no `:`"),
    ],
)
def test_what_is_broken_is_told_with_the_number_of_the_record(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_cutting, "MAX_RECORD_BYTES", 200)
    for size in (1, 1 << 20):
        with pytest.raises(BrokenJson, match=told):
            cut(text, size)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_anything_is_cut_or_refused(raw: bytes, size: int) -> None:
    """No other error, and no byte that was not there."""
    try:
        for record in JsonCutter(Drops(b"[{" + raw, size)).records():
            assert record in b"[{" + raw
    except BrokenJson as error:
        assert str(error).startswith("record ")
