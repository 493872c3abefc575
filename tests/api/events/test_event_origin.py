"""What one event came with."""

from __future__ import annotations

from trustwatch.api.events.event_origin import origin_of
from trustwatch.ingest.events import decode_event


def test_an_event_tells_what_it_has() -> None:
    """The network is the autonomous system, else the address's network; what is missing is empty."""
    event = (
        b'{"time": "2026-11-28T18:03:58Z", "type": "tool.call", "action": "a", "outcome": "success", '
        b'"agent": {"id": "x", "instance": "i-1"}%s}'
    )
    whole = b', "client": {"ip": "203.0.113.9", "user_agent": "curl"}, "credential": {"method": "m", "thumbprint": "t"}'

    assert origin_of(decode_event(event % whole)) == ("203.0.113.0/24", "203.0.113.9", "curl", "m", "t", "i-1", "")
    assert origin_of(decode_event(event % b', "session": "s"')) == ("", "", "", "", "", "i-1", "s")
