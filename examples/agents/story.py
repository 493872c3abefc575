"""What happens, in order, and what was to be seen of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx2

from .activity_feed import ActivityEntry, ActivityFeed
from .connections import NetworkConnections
from .identity import Identity
from .narrator import TerminalNarrator
from .office import INJECTION, POISONED, follow_ups
from .roles import ROLES, SERVERS, AccessRefused
from .world import World

WITHIN_S = 30.0
TURNED, SAFE = "clerk", ("front-desk", "researcher", "archivist", "support")
ORDERS = ("clerk: pay inv-3", "support: answer t-4", "clerk: pay inv-8", "support: answer t-9", "clerk: pay inv-14")
AFTERWARDS = "clerk: pay inv-17"
CALM = ("unknown", "low")

Decide = Callable[[dict[str, Any]], str]
"""What a person says to an approval: `approve` or `reject`."""


class Story:
    """One run.

    Args:
        world: running.
        teller: the terminal.
        decide: asks the person.

    Attributes:
        seen: what the test reads, by name.
    """

    def __init__(self, world: World, teller: TerminalNarrator, decide: Decide) -> None:
        self._world, self._teller, self._decide = world, teller, decide
        self._dana, self._place = world.dana, world.place
        self.seen: dict[str, Any] = {}
        self._worst = dict.fromkeys(SAFE, "unknown")

    def run(self) -> bool:
        """Play it; whether everything was seen that was to be seen."""
        logs = [self._world.log_of(name) for name in ROLES]
        with ActivityFeed(logs, self._dana.decisions, self._teller.write_entry) as self._diaries:
            for chapter in (
                self._introduce,
                self._work,
                self._hijack_agent,
                self._contain,
                self._ask_person,
                self._recover,
            ):
                chapter()
            self._diaries.read_new()
        return self._conclude()

    def _introduce(self) -> None:
        self._teller.chapter("Who works here, as they publish it")
        self.seen["cards"] = []
        for name in SERVERS:
            card = _public(f"{self._place.agents[name]['url']}.well-known/agent-card.json")
            skill = card["skills"][0]["name"]
            self._teller.card(name, card["supportedInterfaces"][0]["url"], skill, card["description"])
            self.seen["cards"].append(card["name"])
        base, _, path = self._place.tools_url.rpartition("/")
        self.seen["resource"] = _public(f"{base}/.well-known/oauth-protected-resource/{path}")["resource"]

    def _work(self) -> None:
        self._teller.chapter("1. An ordinary morning: agents work, Trustwatch watches")
        self._order(*ORDERS)
        self._settled()
        tokens = self._tokens(TURNED)
        self.seen["lifetime_before_s"] = tokens[-1]["lifetime_s"] if tokens else None
        self.seen["claims"] = tokens[-1]["claims"] if tokens else {}
        self.seen["act"] = [one["claims"].get("act") for one in self._diaries.entries_of("archivist", "token")][-1:]
        self.seen["levels_before"] = self._levels()
        if tokens:
            self._teller.claims(TURNED, tokens[-1]["claims"])
        self._tell_levels()

    def _hijack_agent(self) -> None:
        self._teller.chapter(f"2. Somebody has written an instruction into invoice {POISONED}; the clerk reads it")
        self._mark = len(self._diaries.facts)
        self._order(f"clerk: pay {POISONED}")
        self._wait("the clerk is critical", lambda: self._dana.risk(TURNED)["risk_level"] == "critical")
        self._settled()
        changes = [one for one in self._facts("decision") if self._place.name_of(one["agent_id"]) == TURNED]
        self.seen["levels"] = [one["level"] for one in changes]
        texts = dict.fromkeys(reason["text"] for one in changes for reason in one["reasons"])
        self.seen["reasons"] = sorted(texts, key=lambda text: not _names_it(text))
        shorter = [one["lifetime_s"] for one in self._tokens(TURNED, self._mark)[1:]]
        self.seen["lifetimes_after_s"] = shorter
        self._teller.write_line(f"   why: {'; '.join(self.seen['reasons'][:3])}", "bold")
        self._teller.write_line("   all of it lay within its scopes and capabilities: only its behaviour was another")

    def _contain(self) -> None:
        self._teller.chapter("3. Contained: no new token, no call with the live one; and whom it reached")
        refused = [one for one in self._diaries.entries_of(TURNED, "tool", self._mark) if one["status"] == 403]
        self.seen["refused_live_s"] = [one["left_s"] for one in refused]
        before = len(self._diaries.facts)
        self._order(AFTERWARDS)
        self.seen["token_refused"] = [one["error"] for one in self._diaries.entries_of(TURNED, "no_token", before)]
        reached = self._dana.blast_radius(TURNED)
        children = [one for one in reached if one["kind"] == "delegated"]
        self.seen["children"] = [self._place.name_of(one["agent_id"]) for one in children]
        for one in children:
            name, level = self._place.name_of(one["agent_id"]), one["risk_level"] or "unknown"
            via = self._place.name_of(one["via"])
            self._teller.write_line(
                f"   blast radius: {name}, {one['kind']} by {via}, {one['depth']} away, itself {level}"
            )
        self.seen["child_lifetime_s"] = self._child_lifetime()

    def _ask_person(self) -> None:
        self._teller.chapter("4. A person is asked: the clerk wants tools that write")
        waiting = self._wait(
            "an approval waits", lambda: [one for one in self._dana.approvals(TURNED) if one["status"] == "pending"]
        )[0]
        self.seen["approval_asked"] = {name: waiting[name] for name in ("scopes", "level", "asked_why", "asked_by")}
        self._teller.write_line(
            f"   approval {waiting['intervention_id']}: {' '.join(waiting['scopes'])} for the clerk, "
            f"which was {waiting['level']} then ({waiting['asked_why']})"
        )
        verdict = self._decide(waiting)
        done = self._dana.decide(waiting, verdict, f"invoice {POISONED} made it ask")
        self.seen["approval"] = done["status"]
        self._teller.write_line(f"   {done['decided_by']}: {done['status']}, “{done['why']}”", "bold")

    def _recover(self) -> None:
        self._teller.chapter(f"5. Dana throws {POISONED} away and vouches for the clerk")
        self._dana.release(TURNED, f"was turned by invoice {POISONED}, which is gone")
        self._wait("the clerk is calm", lambda: self._dana.risk(TURNED)["risk_level"] in CALM)
        self._settled()
        self._diaries.read_new()
        before = len(self._diaries.facts)
        self._order(AFTERWARDS)
        self._settled()
        self.seen["child_lifetime_recovered_s"] = self._child_lifetime()
        tokens = self._tokens(TURNED, before)
        self.seen["lifetime_recovered_s"] = tokens[-1]["lifetime_s"] if tokens else None
        paid = [one for one in self._diaries.entries_of(TURNED, "tool", before) if one["tool"] == "pay_invoice"]
        self.seen["paid_again"] = bool(paid) and paid[-1]["status"] == 200 and not paid[-1]["failed"]
        self.seen["others"] = self._worst | {
            name: max(level, self._worst[name], key=_rank) for name, level in self._levels().items() if name in SAFE
        }
        self.seen["level_recovered"] = self._levels()[TURNED]
        self._tell_levels()

    def _conclude(self) -> bool:
        self._teller.chapter("Seen")
        seen = self.seen
        shortest = min(seen["lifetimes_after_s"], default=None)
        lines = (
            ("critical" in seen["levels"], f"the clerk's risk rose: {' → '.join(seen['levels'])}"),
            (
                bool(seen["reasons"]) and _names_it(seen["reasons"][0]),
                f"the reason names what it did: {next(iter(seen['reasons']), '')}",
            ),
            (
                shortest is not None and shortest < seen["lifetime_before_s"],
                f"its next token was shorter: {seen['lifetime_before_s']} s → {seen['lifetimes_after_s']} s",
            ),
            (
                any(left > 0 for left in seen["refused_live_s"]),
                f"{len(seen['refused_live_s'])} calls with a live token were refused at the gateway (403)",
            ),
            ("access_denied" in seen["token_refused"], f"no new token: {', '.join(seen['token_refused'])}"),
            (
                {"researcher", "archivist"} <= set(seen["children"]) and seen["child_lifetime_s"] < 301,
                f"its delegated children were found: {', '.join(seen['children'])}; "
                f"the researcher's token was down to {seen['child_lifetime_s']} s, "
                f"and is {seen['child_lifetime_recovered_s']} s again",
            ),
            (seen["approval"] in ("approved", "rejected"), f"a person was asked, and said: {seen['approval']}"),
            (
                seen["lifetime_recovered_s"] == seen["lifetime_before_s"] and seen["paid_again"],
                f"it recovered: {seen['level_recovered']}, "
                f"tokens of {seen['lifetime_recovered_s']} s again, and it pays",
            ),
            (
                all(level in CALM for level in seen["others"].values()),
                f"the others stayed calm: {', '.join(f'{name} {level}' for name, level in seen['others'].items())}",
            ),
        )
        for done, text in lines:
            self._teller.write_check(done, text)
        return all(done for done, _ in lines)

    def _order(self, *orders: str) -> None:
        """Dana's orders, handed out by the front desk one after the other. Refusals are part of the story."""
        asyncio.run(self._hand_out(orders))
        self._diaries.read_new()

    async def _hand_out(self, orders: tuple[str, ...]) -> None:
        me, role = self._place.agents["front-desk"], ROLES["front-desk"]
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            identity = Identity(self._place.issuer, me["client_id"], me["key"], http)
            for order in orders:
                doors = NetworkConnections(self._place, "front-desk", role, identity, note=self._diaries.note)
                try:
                    await role.plan(order, doors)
                except AccessRefused as why:
                    self._teller.write_line(f"   front desk: {why}", "red")

    def _child_lifetime(self) -> int:
        """How long a token lives by which the researcher, asked by the front desk, reaches tools."""
        before = len(self._diaries.facts)
        self._order("researcher: check north-rope")
        return int(self._tokens("researcher", before)[-1]["lifetime_s"])

    def _settled(self) -> None:
        """Events are on their way for some tenths of a second."""
        time.sleep(1.5)
        self._diaries.read_new()

    def _wait(self, what: str, until: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WITHIN_S
        while not (found := until()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {WITHIN_S:.0f} s: {what}")
            time.sleep(0.2)
        return found

    def _facts(self, what: str) -> list[ActivityEntry]:
        return [one for one in self._diaries.facts[self._mark :] if one["what"] == what]

    def _tokens(self, agent: str, since: int = 0) -> list[ActivityEntry]:
        """Tokens for the tools that an agent got."""
        return [
            one for one in self._diaries.entries_of(agent, "token", since) if one["resource"] == self._place.tools_url
        ]

    def _levels(self) -> dict[str, str]:
        found = {name: self._dana.risk(name)["risk_level"] for name in ROLES}
        for name in SAFE:
            self._worst[name] = max(self._worst[name], found[name], key=_rank)
        return found

    def _tell_levels(self) -> None:
        self._teller.write_line("   " + ", ".join(f"{name}: {level}" for name, level in self._levels().items()))


def _names_it(reason: str) -> bool:
    """Whether a reason names something that the instruction made the clerk do."""
    return reason.startswith("new ") and any(tool in reason for tool, _ in follow_ups(INJECTION))


def _public(url: str) -> dict[str, Any]:
    """A document that is open to all."""
    return dict(httpx2.get(url, trust_env=False, timeout=30).raise_for_status().json())


def _rank(level: str) -> int:
    return ("unknown", "low", "medium", "high", "critical").index(level)
