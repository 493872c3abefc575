"""A month of this world on paper: the planners work without a network, and what Trustwatch would have been told of it
becomes the history that its model learns from.

Each event has the shape of the live one: those of the middlewares are made by the same code, those of the hook at
issuance and of Envoy's log are written as they arrive. Were they another, an ordinary morning would be an odd one; the
test of this example sees that it is not.
"""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from trustwatch_client import AuditEvent
from trustwatch_client.events import EventAgent, EventResource

from .environment import Environment
from .identity import caller_of
from .office import INVOICES, SUPPLIERS, TICKETS, TOOLS
from .roles import MESSAGE, ROLES, TENANT, USER, Role
from .tools import NAME as OFFICE

DAYS, SHIFTS, ORDERS = 30, 4, (3, 7)
"""Days of history, shifts a day (at any hour: the example may be tried at any hour), and orders a shift: from, to."""
BRANCHES = 3
"""Offices whose month is written. Today one of them works; agents of the others are the peers of those here."""
LIFETIME_S = 900


class EventRecorder:
    """Collects events, with a clock of its own."""

    def __init__(self, place: Environment, seed: int) -> None:
        self.place, self.draw = place, random.Random(seed)
        self.now = 0.0
        self.busy = 1.0
        """How much slower than usual the machine is."""
        self.events: list[tuple[str, bytes]] = []

    def add(self, event: dict[str, Any] | AuditEvent) -> None:
        """Note an event of now."""
        if isinstance(event, AuditEvent):
            event = msgspec.json.decode(msgspec.json.encode(event))
        event.setdefault("tenant", TENANT)
        event["id"] = f"paper-{self.draw.getrandbits(96):x}"
        self.events.append((event["time"], json.dumps(event).encode()))

    def time(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def think(self) -> None:
        """An agent takes its time, and a call takes some more."""
        self.now += self.draw.uniform(0.3, 0.6) + self.busy * self.draw.lognormvariate(-2.0, 0.7)

    def brief_ms(self) -> float:
        """How long a tool takes: some milliseconds, on a busy machine many."""
        return self.busy * self.draw.lognormvariate(1.8, 0.8)


class RecordedConnections:
    """What an agent does, written down instead of done. See `doors.NetworkConnections`, whose steps these are."""

    def __init__(self, diary: EventRecorder, name: str, role: Role, handed: dict[str, Any] | None = None) -> None:
        self._diary, self._name, self._role = diary, name, role
        self._handed = handed if role.delegated else None
        self._tokens: dict[str, dict[str, Any]] = {}

    async def tool(self, name: str, ref: str) -> str:
        self._diary.think()
        claims = self._token(self._diary.place.tools_url, self._role.scope)
        self._diary.add(seen_by_gateway(claims, self._diary.time()))
        caller = caller_of(claims)
        assert caller is not None
        event = AuditEvent(
            time=self._diary.time(),
            agent=EventAgent(id="-"),
            type="tool.call",
            action=name,
            outcome="success",
            effect=TOOLS[name].effect,
            peer=OFFICE,  # type: ignore[arg-type]
            resource=EventResource(type="mcp", id=f"{OFFICE}/{name}", target=OFFICE),
            source="urn:harbour:mcp",
            duration_ms=self._diary.brief_ms(),
        )
        self._diary.add(caller.add_to_event(event))
        self._diary.add(
            caller.add_to_event(
                msgspec.structs.replace(  # the SDK looks at the list after each call
                    event,
                    type="api.call",
                    action="tools/list",
                    effect="read",
                    resource=EventResource(type="mcp", id=OFFICE, target=OFFICE),
                    duration_ms=self._diary.brief_ms(),
                )
            )
        )
        return TOOLS[name].run(ref)

    async def ask(self, agent: str, text: str) -> str:
        self._diary.think()
        other = self._diary.place.agents[agent]
        claims = self._token(other["url"], MESSAGE)
        caller = caller_of(claims)
        assert caller is not None
        event = AuditEvent(
            time=self._diary.time(),
            agent=EventAgent(id="-"),
            type="a2a.message",
            action="SendMessage",
            outcome="success",
            effect="write",
            peer=other["client_id"],
            source=f"urn:harbour:a2a:{agent}",
            resource=EventResource(type="agent", id=other["client_id"]),
            session=f"{self._diary.draw.getrandbits(64):x}",
        )
        answer = await ROLES[agent].plan(text, RecordedConnections(self._diary, agent, ROLES[agent], claims))
        event.duration_ms = (self._diary.now - event.time.timestamp()) * 1000.0
        self._diary.add(caller.add_to_event(event))
        return answer

    def _token(self, resource: str, scope: str) -> dict[str, Any]:
        if resource not in self._tokens:
            claims = self._claims(scope)
            self._diary.add(seen_at_issuance(claims, resource, scope, self._diary.time()))
            self._tokens[resource] = claims
        return self._tokens[resource]

    def _claims(self, scope: str) -> dict[str, Any]:
        """What the authorization server writes into a token."""
        place, now = self._diary.place, int(self._diary.now)
        me = place.agents[self._name]["client_id"]
        claims = {
            "iss": place.issuer,
            "sub": me,
            "client_id": me,
            "iat": now,
            "exp": now + LIFETIME_S,
            "scope": scope,
            "jti": f"{self._diary.draw.getrandbits(96):x}",
            "agent_type": self._role.type,
            "delegated_user_id": USER,
            "capabilities": list(self._role.capabilities),
            "organization_id": TENANT,
        }
        if self._handed is None:
            return claims
        before = self._handed.get("act") or {"sub": self._handed["client_id"]}
        return claims | {
            "sub": self._handed["sub"],
            "act": {"sub": me, "act": before},
            "exp": self._handed["exp"],
        }


def seen_at_issuance(claims: dict[str, Any], resource: str, scope: str, at: datetime) -> dict[str, Any]:
    """The audit event of Trustwatch's AuthZEN hook."""
    act = claims.get("act")
    more: dict[str, Any] = {}
    if act:
        more = {"principal": {"id": claims["sub"], "type": "user"}, "delegation": _actors(act)}
    return (
        more
        | _who(claims)
        | {
            "time": _written(at),
            "source": "urn:trustwatch:authzen",
            "type": "token.exchange" if act else "token.request",
            "action": "token_exchange" if act else "client_credentials",
            "outcome": "success",
            "resource": {"audience": resource},
            "scopes": {"requested": scope.split(), "granted": scope.split()},
        }
    )


def seen_by_gateway(claims: dict[str, Any], at: datetime) -> dict[str, Any]:
    """What the settings make of a line of Envoy's access log (`trust.GATEWAY`)."""
    more: dict[str, Any] = {} if claims["sub"] == claims["client_id"] else {"principal": {"id": claims["sub"]}}
    caller = caller_of(claims)
    assert caller is not None
    return (
        more
        | _who(claims)
        | {
            "time": _written(at),
            "type": "api.call",
            "action": "POST /mcp",
            "effect": "unknown",
            "outcome": "success",
            "status": 200,
            "resource": {"id": "/mcp", "target": "127.0.0.1"},
            "client": {"ip": "127.0.0.1"},
            "credential": {"token_id": caller.token_id},
        }
    )


def _written(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _who(claims: dict[str, Any]) -> dict[str, Any]:
    """The agent, with what the operator's registry says of it."""
    return {"agent": {"id": claims["client_id"], "issuer": claims["iss"], "type": claims["agent_type"]}}


def _actors(act: dict[str, Any] | None) -> list[str]:
    return [] if act is None else [act["sub"], *_actors(act.get("act"))]


def random_order(draw: random.Random) -> str:
    """Something that Dana may want."""
    kind = draw.random()
    if kind < 0.5:
        return f"clerk: pay inv-{draw.randrange(1, INVOICES)}"
    if kind < 0.65:
        return f"researcher: check {draw.choice(SUPPLIERS)}"
    return f"support: answer t-{draw.randrange(1, TICKETS)}"


def write_history(path: Path, place: Environment, ends: datetime, seed: int) -> int:
    """Write the month before *ends* as JSON lines; returns the number of events."""
    events: list[tuple[str, bytes]] = []
    for branch in range(BRANCHES):
        diary = EventRecorder(_branch_environment(place, branch), seed + branch)
        starts = [ends - timedelta(days=diary.draw.uniform(0.1, DAYS)) for _ in range(DAYS * SHIFTS)]
        asyncio.run(_work(diary, sorted(starts)))
        events += diary.events
    with path.open("wb") as file:
        file.writelines(line + b"\n" for _, line in sorted(events, key=lambda one: one[0]))
    return len(events)


def _branch_environment(place: Environment, number: int) -> Environment:
    """The place as another office knows it: agents of the same roles, with names of their own."""
    if number == 0:
        return place
    agents = {name: one | {"client_id": f"{name}-of-branch-{number}"} for name, one in place.agents.items()}
    return place._replace(agents=agents)


async def _work(diary: EventRecorder, starts: list[datetime]) -> None:
    role = ROLES["front-desk"]
    for start in starts:
        diary.now = max(diary.now + 60.0, start.timestamp())
        diary.busy = diary.draw.lognormvariate(0.3, 0.6)
        for _ in range(diary.draw.randint(*ORDERS)):
            await role.plan(random_order(diary.draw), RecordedConnections(diary, "front-desk", role))
            diary.now += diary.draw.uniform(0.2, 1.5)
