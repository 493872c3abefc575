"""Who works here, and how each agent plans. The planners stand in for language models: they do what their papers say.

The same planners run over the network (`connections.py`) and, to write the history that the model learns from, on paper
(`generated_history.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from .office import field, follow_ups

TENANT = "harbour-trading"
USER = "dana@harbour.example"
"""On whose behalf everybody works here."""
READ, WRITE = "tools:read", "tools:write"
MESSAGE = f"a2a:send {READ} {WRITE}"
"""Scopes of a token by which one agent speaks to another: what that one may do with tools, it may hand on."""


class AccessRefused(Exception):
    """A gateway, an agent or the authorization server said no."""


class Connections(Protocol):
    """What an agent can reach."""

    async def tool(self, name: str, ref: str) -> str:
        """Call a tool of the office. Raises Refused."""

    async def ask(self, agent: str, text: str) -> str:
        """Ask another agent. Raises Refused."""


class Role(NamedTuple):
    """One agent.

    Attributes:
        type: `agent_type`, its peer group.
        capabilities: what it is meant to be able to do. The clerk's are broad, as they are in many a company: nothing
            that it is made to do later lies outside of its rights.
        scope: of its tokens for tools.
        delegated: it acts with what its caller handed on (token exchange), not by a right of its own.
        plan: what it does with an order.
    """

    type: str
    capabilities: tuple[str, ...]
    scope: str
    delegated: bool
    plan: Callable[[str, Connections], Awaitable[str]]


async def clerk(order: str, doors: Connections) -> str:
    """Pays an invoice: reads it, does what it says, has the supplier checked."""
    ref = order.split()[-1]
    paper = await doors.tool("read_invoice", ref)
    said = []
    for tool, argument in follow_ups(paper):  # too obedient: who may write an invoice may write the plan
        try:
            said.append(await doors.tool(tool, argument))
        except AccessRefused as why:
            said.append(f"{tool} refused: {why}")
    await doors.ask("researcher", f"check {field(paper, 'supplier')}")
    return await doors.tool("pay_invoice", ref)


async def researcher(order: str, doors: Connections) -> str:
    """Checks a supplier and has the result filed."""
    name = order.split()[-1]
    await doors.tool("find_supplier", name)
    found = await doors.tool("read_supplier", name)
    await doors.ask("archivist", f"file {name}")
    return found


async def archivist(order: str, doors: Connections) -> str:
    """Files a note."""
    return await doors.tool("file_note", order.split()[-1])


async def support(order: str, doors: Connections) -> str:
    """Answers a ticket."""
    ref = order.split()[-1]
    await doors.tool("read_ticket", ref)
    return await doors.tool("answer_ticket", ref)


async def front_desk(order: str, doors: Connections) -> str:
    """The front desk: hands Dana's orders to agents."""
    agent, _, text = order.partition(": ")
    return await doors.ask(agent, text)


_CLERK_ROLE = (
    "read_invoice",
    "read_contract",
    "pay_invoice",
    "list_customers",
    "read_customer",
    "export_customers",
    "send_mail",
    "tools/list",
    "SendMessage",
)

ROLES: dict[str, Role] = {
    "front-desk": Role("FrontDesk", ("SendMessage",), "", False, front_desk),
    "clerk": Role("InvoiceClerk", _CLERK_ROLE, f"{READ} {WRITE}", False, clerk),
    "researcher": Role(
        "Researcher", ("find_supplier", "read_supplier", "tools/list", "SendMessage"), READ, True, researcher
    ),
    "archivist": Role("Archivist", ("file_note", "tools/list"), WRITE, True, archivist),
    "support": Role("Support", ("read_ticket", "answer_ticket", "tools/list"), f"{READ} {WRITE}", False, support),
}
SERVERS = tuple(name for name in ROLES if name != "front-desk")
"""Agents that others can talk to."""
