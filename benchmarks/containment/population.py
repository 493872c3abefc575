"""A population of agents that call an API behind a gateway: what they usually do, and what thieves of their keys do.

The same plans make the history that a model is trained on and the live requests, so that the benign part of a run is
normal for the model and everything else about it is real.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

Step = tuple[str, str]
"""Method and route; a route's `{}` is the resource."""

ROLES: dict[str, tuple[tuple[str, ...], dict[Step, float]]] = {
    "Billing": (
        ("invoices:read", "invoices:write"),
        {("GET", "/invoices/{}"): 6, ("GET", "/customers/{}"): 3, ("POST", "/invoices/{}/lines"): 2},
    ),
    "Support": (
        ("tickets:read", "tickets:write"),
        {("GET", "/tickets/{}"): 6, ("GET", "/customers/{}"): 2, ("POST", "/tickets/{}/replies"): 3},
    ),
    "Stock": (
        ("stock:read", "stock:write"),
        {("GET", "/stock/{}"): 8, ("PUT", "/stock/{}/count"): 2},
    ),
    "Report": (
        ("reports:read",),
        {("GET", "/reports/{}"): 5, ("GET", "/invoices/{}"): 3, ("GET", "/stock/{}"): 2},
    ),
}
THIEF_STEPS: tuple[Step, ...] = (
    ("GET", "/exports/{}"),
    ("GET", "/users/{}"),
    ("POST", "/users/{}/keys"),
    ("DELETE", "/invoices/{}"),
    ("GET", "/secrets/{}"),
    ("PUT", "/webhooks/{}"),
)
STOLEN_SCOPES = ("users:admin", "exports:read")
RESOURCES = 400
"""Resources of each route's first part."""


class ApiCall(NamedTuple):
    """One request to the API."""

    method: str
    path: str
    source: str  # address that it comes from


class ClientSession(NamedTuple):
    """A token and what is done with it; `gaps` are the seconds before each call."""

    scopes: tuple[str, ...]
    calls: list[ApiCall]
    gaps: list[float]


class SimulatedClient:
    """One agent with habits of its own.

    Args:
        number: of the agent; everything about it follows from it.
    """

    def __init__(self, number: int) -> None:
        dice = random.Random(f"client-{number}")
        self.number = number
        self.role = list(ROLES)[number % len(ROLES)]
        self.client_id = f"agent-{self.role.lower()}-{number}"
        self.address = f"127.1.{number // 200}.{10 + number % 200}"
        self._resources = [dice.randrange(RESOURCES) for _ in range(12)]
        weights = ROLES[self.role][1]
        self._steps = list(weights)
        self._weights = [weight * dice.uniform(0.6, 1.6) for weight in weights.values()]

    @property
    def scopes(self) -> tuple[str, ...]:
        """What the client is registered for: its own, and what a thief is after (a registration that is too wide)."""
        return ROLES[self.role][0] + STOLEN_SCOPES

    def session(self, dice: random.Random) -> ClientSession:
        """What the agent does in one go."""
        count = dice.randint(4, 9)
        calls = [self._call(dice) for _ in range(count)]
        return ClientSession(ROLES[self.role][0], calls, [dice.uniform(0.3, 1.5) for _ in calls])

    def theft(self, dice: random.Random) -> ClientSession:
        """What somebody does who stole its key: elsewhere, more scopes, other things, in haste."""
        source = f"127.66.{dice.randrange(250)}.{dice.randrange(1, 250)}"
        calls = []
        for _ in range(dice.randint(25, 40)):
            method, route = dice.choice(THIEF_STEPS)
            calls.append(ApiCall(method, route.format(dice.randrange(10_000)), source))
        scopes = (*ROLES[self.role][0], *STOLEN_SCOPES)
        return ClientSession(scopes, calls, [dice.uniform(0.02, 0.08) for _ in calls])

    def _call(self, dice: random.Random) -> ApiCall:
        method, route = dice.choices(self._steps, self._weights)[0]
        own = dice.random() < 0.9
        resource = self._resources[min(int(dice.expovariate(0.35)), 11)] if own else dice.randrange(RESOURCES)
        return ApiCall(method, route.format(resource), self.address)


def routes() -> list[str]:
    """Every route, the longest first, as a gateway has to know them."""
    found = {route for _, steps in ROLES.values() for _, route in steps} | {route for _, route in THIEF_STEPS}
    return sorted(found, key=lambda route: (-route.count("/"), route))


def route_name(route: str) -> str:
    """Name of a route in the gateway's log, for example `invoices.lines`."""
    return ".".join(part for part in route.split("/") if part and part != "{}")


def session_starts(
    clients: list[SimulatedClient], dice: random.Random, seconds: float, every_s: float
) -> Iterator[tuple[float, SimulatedClient]]:
    """When sessions begin within *seconds*, in order: each client about once in *every_s*."""
    found = [
        (dice.uniform(0, every_s) + at * every_s, client)
        for client in clients
        for at in range(int(seconds / every_s))
        if dice.random() < 0.9
    ]
    yield from sorted(found, key=lambda one: one[0])
