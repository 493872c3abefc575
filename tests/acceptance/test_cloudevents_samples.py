"""The published samples of CloudEvents, and all real traces beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.cloudevents import NATIVE_CLOUDEVENT_TYPE, decode_structured, split_batch
from trustwatch.ingest.formats.history_decoding import decode_history_event

from ..support.checkout import ROOT

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
SAMPLES, DATA = SHARED / "samples" / "cloudevents", SHARED / "data"

pytestmark = pytest.mark.acceptance
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"{SAMPLES} is missing; set TRUSTWATCH_SHARED")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is missing; set TRUSTWATCH_SHARED")


@needs_samples
def test_structured_sample_is_read_and_refused_for_its_type_alone() -> None:
    """The sample of the specification (null attribute, extensions) is a sound envelope of somebody else's type."""
    raw = (SAMPLES / "structured_event.json.txt").read_bytes()
    with pytest.raises(MalformedEvent, match=NATIVE_CLOUDEVENT_TYPE) as caught:
        decode_structured(raw)
    assert caught.value.path == "$.type"


@needs_samples
def test_batch_sample_with_our_type_and_data() -> None:
    """The elements of the sample batch become native events once they carry one; attributes beside stay harmless."""
    elements = split_batch((SAMPLES / "batch.json.txt").read_bytes())
    assert len(elements) == 2
    native = {"agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success"}
    envelope = {**json.loads(elements[1]), "type": NATIVE_CLOUDEVENT_TYPE, "data": native}
    event = decode_event(decode_structured(json.dumps(envelope).encode()))
    assert (event.id, event.source) == ("C234-1234-1234", "/mycontext/9")
    assert event.time.isoformat() == "2018-04-05T17:31:05+00:00"
    with pytest.raises(MalformedEvent) as caught:
        decode_structured(json.dumps({**json.loads(elements[0]), "type": NATIVE_CLOUDEVENT_TYPE}).encode())
    assert caught.value.path == "$.datacontenttype"


TRACES = sorted(path for path in DATA.glob("*/*.jsonl.gz") if "labels" not in path.name)


@needs_data
@pytest.mark.parametrize("path", TRACES, ids=[f"{path.parent.name}-{path.name}" for path in TRACES])
def test_every_record_of_the_real_traces_decodes(path: Path) -> None:
    """No record is malformed; only cloudtrail has outcomes to mend, and each of them keeps its code."""
    source = FileSource([path])
    mended = total = end = 0
    while (batch := source.poll(1000, 0)) is not None:
        end = batch.next_offset
        for record in batch.records:
            event, was_mended = decode_history_event(record.payload)
            total += 1
            mended += was_mended
            if was_mended:
                assert event.outcome in ("denied", "error")
                assert event.error == json.loads(record.payload)["outcome"]
    assert total == end > 800
    assert (mended > 0) == (path.parent.name == "cloudtrail")
