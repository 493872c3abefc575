"""The population's past: the gateway's log and the hook's events of some days, as a running service would have them."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

from trustwatch.ingest.formats.format_registry import create_parser

from .population import ApiCall, ClientSession, SimulatedClient, route_name, routes, session_starts
from .upstream import answer


class EventContext:
    """Names that every event of a run shares."""

    def __init__(self, tenant: str, issuer: str, authority: str, hook: str) -> None:
        self.tenant = tenant
        self.issuer = issuer
        self.authority = authority
        self.hook = hook


def generate_history(
    clients: list[SimulatedClient],
    around: EventContext,
    until_s: float,
    *,
    days: int = 3,
    block_s: float = 1500.0,
    every_s: float = 150.0,
) -> list[bytes]:
    """Native events, in order: dense blocks on several days, at the hours of the day that the run falls into."""
    dice, found = random.Random("history"), []
    for day in range(days, 0, -1):
        for shift_s in (-1500.0, 0.0):
            begin = until_s - day * 86_400 + shift_s
            for offset, client in session_starts(clients, dice, block_s, every_s):
                found += session_events(client, client.session(dice), begin + offset, around, dice)
    found += _last_hour(clients, around, until_s, every_s, dice)
    found.sort(key=lambda one: one[0])
    return [raw for _, raw in found]


def _last_hour(
    clients: list[SimulatedClient], around: EventContext, until_s: float, every_s: float, dice: random.Random
) -> list[tuple[float, bytes]]:
    found: list[tuple[float, bytes]] = []
    for offset, client in session_starts(clients, dice, 3000.0, every_s):
        found += session_events(client, client.session(dice), until_s - 3100 + offset, around, dice)
    return found


def session_events(
    client: SimulatedClient, session: ClientSession, begin_s: float, around: EventContext, dice: random.Random
) -> list[tuple[float, bytes]]:
    """(time, native event) of a session: the token request, and each call as the gateway logs it."""
    at = begin_s
    found = [(at, _token_request(client, session, at, around))]
    parse = create_parser("envoy")
    for call, gap in zip(session.calls, session.gaps, strict=True):
        at += gap
        line = json.dumps(envoy_line(client, call, at, around, dice)).encode()
        (parcel,) = parse(line, {}).records
        event = json.loads(parcel.to_native() if parcel.to_native else parcel.raw)
        event["tenant"] = around.tenant
        event["agent"]["type"] = client.role
        found.append((at, json.dumps(event).encode()))
    return found


def envoy_line(
    client: SimulatedClient, call: ApiCall, at_s: float, around: EventContext, dice: random.Random
) -> dict[str, Any]:
    """What Envoy writes of a call (see `scripts/service_stack/envoy.py` for the format)."""
    return {
        "start_time": _stamp(at_s),
        "method": call.method,
        "x-envoy-origin-path": call.path,
        "response_code": 200,
        "response_code_details": "via_upstream",
        "response_flags": "-",
        "bytes_received": 0,
        "bytes_sent": len(answer(call.path)),
        "duration": max(1, int(dice.lognormvariate(1.6, 0.9))),
        ":authority": around.authority,
        "downstream_remote_address": f"{call.source}:40000",
        "user-agent": "agent/1",
        "route_name": name_of(call),
        "jwt.iss": around.issuer,
        "jwt.sub": client.client_id,
        "jwt.client_id": client.client_id,
    }


def name_of(call: ApiCall) -> str:
    """Name of the route that a call takes."""
    parts = call.path.split("/")
    for route in routes():
        wanted = route.split("/")
        if len(wanted) == len(parts) and all(a in ("{}", b) for a, b in zip(wanted, parts, strict=True)):
            return route_name(route)
    return "other"


def _token_request(client: SimulatedClient, session: ClientSession, at_s: float, around: EventContext) -> bytes:
    return json.dumps(
        {
            "time": _stamp(at_s),
            "source": f"urn:trustwatch:{around.hook}",
            "type": "token.request",
            "action": "client_credentials",
            "tenant": around.tenant,
            "agent": {"id": client.client_id, "issuer": around.issuer, "type": client.role},
            "outcome": "success",
            "scopes": {"requested": list(session.scopes), "granted": list(session.scopes)},
        }
    ).encode()


def _stamp(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
