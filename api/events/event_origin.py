"""Origin of an event: its network, software and credential, as tables, case stories and the search show it."""

from __future__ import annotations

from typing import NamedTuple

from trustwatch.ingest.columns import network_of
from trustwatch.ingest.events import NativeEvent


class EventOrigin(NamedTuple):
    """Network, key and similar data of one event; "" = unknown."""

    network: str
    address: str
    software: str
    credential: str
    key: str
    instance: str
    session: str


def origin_of(event: NativeEvent) -> EventOrigin:
    """Return the origin of an event."""
    client, login = event.client, event.credential
    network = ""
    if client is not None:
        network = f"AS{client.asn}" if client.asn is not None else network_of(client.ip)
    return EventOrigin(
        network,
        (client and client.ip) or "",
        (client and client.user_agent) or "",
        (login and login.method) or "",
        (login and login.thumbprint) or "",
        event.agent.instance or "",
        event.session or "",
    )


def event_sizes(event: NativeEvent) -> str:
    """Return the bytes that a call sent and received, as text, or "" if the event has none.

    >>> from trustwatch.ingest.events import decode_event
    >>> event = '{"time": "2026-11-30T00:00:00Z", "agent": {"id": "a"}, "type": "tool.call", "action": "post",'
    >>> event_sizes(decode_event((event + '"outcome": "success", "bytes_in": 1747, "bytes_out": 1146757}').encode()))
    '1,747 bytes in, 1,146,757 out'
    """
    sizes = (("in", event.bytes_in), ("out", event.bytes_out))
    known = [(where, amount) for where, amount in sizes if amount is not None]
    words = [f"{amount:,.0f}{' bytes' if not at else ''} {where}" for at, (where, amount) in enumerate(known)]
    return ", ".join(words)


def delegated_by(event: NativeEvent) -> list[str]:
    """Return the agents for which the event's agent acted, the nearest first."""
    chain = list(event.delegation or ())
    return chain[1:] if chain and chain[0] == event.agent.id else chain
