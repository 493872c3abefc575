"""Whose ids an event's id competes with."""

from __future__ import annotations

import json
from typing import Any

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.settings.access_settings import EventSourceSettings
from trustwatch.ingest.formats.raw_records import RawRecord

NOW_MS = 1_790_000_000_000


def identity(admission: Admission, caller: str, **members: Any) -> int:
    event = {
        "id": "evt-1",
        "time": "2026-09-21T10:00:00Z",
        "tenant": "acme",
        "agent": {"id": "a"},
        "type": "other",
        "action": "x",
        "outcome": "success",
        **members,
    }
    binding = SourceBinding(EventSourceSettings(caller, ("*",), ("*",), ("*",), trusted=True))
    return admission.admit(RawRecord(json.dumps(event).encode()), binding, NOW_MS).id_hash


def test_callers_that_name_no_source_do_not_share_ids() -> None:
    admission = Admission(AgentRegistry(()))

    assert identity(admission, "one") == identity(admission, "one")
    assert identity(admission, "one") != identity(admission, "two")
    assert identity(admission, "one", source="urn:gw") == identity(admission, "two", source="urn:gw")
