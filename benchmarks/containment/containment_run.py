"""One containment run: benign traffic all the time, one hijack after the other, and what was seen of each."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import httpx2

from .testbed import TENANT, ContainmentTestbed
from .traffic import HijackTimes, TrafficDriver

EVERY_S = 150.0
"""Seconds between the sessions of a client: as in its history."""
WITHIN_S = 20.0
TARGET_P99_S = 2.0
TARGET_SET_P99_S = 1.0


@dataclass
class HijackResult:
    """One hijack. Seconds from the thief's first call to the API; -1 = was not seen."""

    client_id: str
    calls_passed: int
    to_gateway_s: float  # until the gateway let nothing pass any more with the token that is out
    to_confirmed_s: float  # until the authorization server said that it is revoked
    from_caused_s: float  # the service's own figure: event that tipped it -> confirmed
    told: bool  # a receiver of shared signals has heard of it
    to_set_s: float  # from that event until a receiver of shared signals had the SET `session-revoked`
    introspection: bool  # inactive at our façade and at the authorization server
    token_refused: bool  # no new token
    still_refused: bool  # the live token once more, a while later


@dataclass
class RestoreResult:
    """One client after a person released it."""

    client_id: str
    exact: bool  # as it was before, member by member
    token_again: bool


@dataclass
class Report:
    """What a run showed."""

    hijacks: list[HijackResult]
    restored: list[RestoreResult]
    benign_sessions: int
    benign_calls: int
    benign_token_refusals: list[Any]
    benign_call_refusals: list[Any]
    benign_elevated: list[tuple[str, str]]

    def figures(self) -> dict[str, Any]:
        """The figures that count."""
        confirmed = [one.to_confirmed_s for one in self.hijacks if one.to_confirmed_s >= 0]
        gateway = [one.to_gateway_s for one in self.hijacks if one.to_gateway_s >= 0]
        return {
            "hijacks": len(self.hijacks),
            "confirmed": len(confirmed),
            "confirmed_s": quantiles(confirmed),
            "refused_at_gateway": len(gateway),
            "gateway_s": quantiles(gateway),
            "service_s": quantiles([one.from_caused_s for one in self.hijacks if one.from_caused_s >= 0]),
            "set_s": quantiles([one.to_set_s for one in self.hijacks if one.to_set_s >= 0]),
            "told": sum(one.told for one in self.hijacks),
            "calls_passed": quantiles([float(one.calls_passed) for one in self.hijacks]),
            "inactive_at_introspection": sum(one.introspection for one in self.hijacks),
            "new_token_refused": sum(one.token_refused for one in self.hijacks),
            "still_refused": sum(one.still_refused for one in self.hijacks),
            "restored": len(self.restored),
            "restored_exactly": sum(one.exact for one in self.restored),
            "tokens_again": sum(one.token_again for one in self.restored),
            "benign_sessions": self.benign_sessions,
            "benign_calls": self.benign_calls,
            "benign_refused": len(self.benign_token_refusals) + len(self.benign_call_refusals),
            "benign_elevated": len(self.benign_elevated),
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"figures": self.figures()}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99 % and largest; empty where there is none."""
    if not values:
        return {}
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered), 3), "p99": round(p99, 3), "max": round(ordered[-1], 3)}


async def run_hijacks(site: ContainmentTestbed, hijacks: int, apart_s: float, settle_s: float = 5.0) -> Report:
    """Hijack the first *hijacks* clients, *apart_s* seconds after each other, while all others go on.

    The first begins when calls of the others have arrived by the gateway's log: a run without it would show nothing.

    Raises:
        TimeoutError: no call arrived.
    """
    traffic = TrafficDriver(site.accounts, site.envoy.url)
    stop = asyncio.Event()
    seconds = settle_s + hijacks * (apart_s + 1.0) + 60.0
    background = asyncio.create_task(traffic.run(seconds + EVERY_S, EVERY_S, stop))
    await asyncio.sleep(settle_s)
    await asyncio.to_thread(site.wait_for_calls, EVERY_S)
    before = {
        account.client_id: await asyncio.to_thread(site.client_at_hydra, account.client_id)
        for account in site.accounts[:hijacks]
    }
    running = []
    for number in range(hijacks):
        running.append(asyncio.create_task(_hijack(site, traffic, number)))
        await asyncio.sleep(apart_s)
    contained = list(await asyncio.gather(*running))
    stop.set()
    with contextlib.suppress(asyncio.CancelledError):
        await background
    restored = [await _restore(site, one, before[one.client_id]) for one in contained[: max(3, hijacks // 10)]]
    return Report(
        contained,
        restored,
        traffic.benign.sessions,
        traffic.benign.calls,
        traffic.benign.token_refusals,
        traffic.benign.call_refusals,
        await asyncio.to_thread(_falsely_elevated, site, traffic),
    )


async def _hijack(site: ContainmentTestbed, traffic: TrafficDriver, number: int) -> HijackResult:
    theft = await traffic.hijack(number, WITHIN_S)
    row = await asyncio.to_thread(_confirmed, site, theft)
    account = traffic.accounts[number]
    inactive = await asyncio.to_thread(
        lambda: not site.is_active(theft.token) and not site.introspect_at_hydra(theft.token)
    )
    refused = await asyncio.to_thread(_token_refused, account)
    again = await traffic.call_once(number, theft.token)
    told = await _told(site, theft.client_id)
    return HijackResult(
        theft.client_id,
        theft.calls_passed,
        theft.refused_at_gateway - theft.began if theft.refused_at_gateway else -1.0,
        row["confirmed_s"] - theft.began if row else -1.0,
        row["confirmed_s"] - row["caused_s"] if row and row["caused_s"] else -1.0,
        told,
        _told_after_s(site, row),
        inactive,
        refused,
        again != 200,
    )


async def _told(site: ContainmentTestbed, client_id: str) -> bool:
    """Whether a receiver of shared signals heard of the client's revocation."""
    with contextlib.suppress(TimeoutError):
        return bool(await asyncio.to_thread(site.wait, lambda: client_id in site.receiver.agents, WITHIN_S))
    return False


def _told_after_s(site: ContainmentTestbed, row: dict[str, Any] | None) -> float:
    """Seconds from the event that tipped the level to its SET at the receiver; -1 = no event tipped it."""
    if row is None or not row["caused_s"] or row["decision_id"] not in site.receiver.told_s:
        return -1.0
    return float(site.receiver.told_s[row["decision_id"]] - row["caused_s"])


def _confirmed(site: ContainmentTestbed, theft: HijackTimes) -> dict[str, Any] | None:
    """When Hydra said that the client's tokens are dead, as the service has written it down."""

    def look() -> dict[str, Any] | None:
        found = site.get("/v1/actuations", agent_id=theft.client_id, tenant=TENANT, issuer=site.hydra.issuer)["items"]
        for one in found:
            if one["status"] == "confirmed" and one["desired"]["revoke"]:
                return {
                    "confirmed_s": _seconds(one["confirmed_at"]),
                    "caused_s": _seconds(one["caused_at"]),
                    "decision_id": one["decision_id"],
                }
        return None

    with contextlib.suppress(TimeoutError):
        return dict(site.wait(look, WITHIN_S))
    return None


def _token_refused(account: Any) -> bool:
    answer = httpx2.post(account.token_url, data=account.form(account.client.scopes[:1]), timeout=20)
    return answer.status_code >= 400


async def _restore(site: ContainmentTestbed, one: HijackResult, before: dict[str, Any]) -> RestoreResult:
    """A person releases the agent: the server is as it was, and tokens are issued again."""
    path = f"/v1/agents/{one.client_id}/release"
    await asyncio.to_thread(site.post, path, {"note": "key rotated"}, tenant=TENANT, issuer=site.hydra.issuer)
    exact = False
    with contextlib.suppress(TimeoutError):
        await asyncio.to_thread(site.wait, lambda: site.client_at_hydra(one.client_id) == before, WITHIN_S)
        exact = True
    account = next(account for account in site.accounts if account.client_id == one.client_id)
    again = not await asyncio.to_thread(_token_refused, account)
    return RestoreResult(one.client_id, exact, again)


def _falsely_elevated(site: ContainmentTestbed, traffic: TrafficDriver) -> list[tuple[str, str]]:
    """Agents that nobody hijacked and that are above low all the same."""
    found: list[tuple[str, str]] = []
    for level in ("medium", "high", "critical"):
        page = site.get("/v1/agents", level=level, limit=500, tenant=TENANT)
        found += [(one["agent_id"], level) for one in page["items"] if one["agent_id"] not in traffic.stolen]
    return found


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
