"""Origin of an event: what it came with, as tables, stories of cases and the search show it."""

from __future__ import annotations

from typing import NamedTuple

from ...ingest.columns import network_of
from ...ingest.events import NativeEvent


class EventOrigin(NamedTuple):
    """Network, key and the like that one event came with; "" = it does not tell."""

    network: str
    address: str
    software: str
    credential: str
    key: str
    instance: str
    session: str


def origin_of(event: NativeEvent) -> EventOrigin:
    """Read what an event came with."""
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
