"""Agents of the simulated enterprise, and their changes while they run: restarts, versions, keys."""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.timestamps import DAY_MS, EPOCH

from .agent_roles import FIRST_NAMES, LAST_NAMES, ROLES, ActivityProfile, AgentRole, activity_profile
from .labelled_events import RandomStream, hex_digest

MAX_AGENTS = 1_000_000
MAX_DURATION = timedelta(days=3660)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Pattern of a domain label, since each tenant has a domain."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack to lay over the enterprise."""

    scenario: str
    at: timedelta | None = None
    agent: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Settings of a simulation. Equal settings give identical bytes.

    Raises:
        ConfigError: a member is out of range; the message names it.
    """

    start: datetime
    duration: timedelta = timedelta(days=7)
    seed: int = 1
    agents: int = 100
    tenants: tuple[str, ...] = ("acme-corp", "globex")
    attacks: tuple[Attack, ...] = ()
    attacks_per_day: float = 0.0
    events_per_agent_day: float = 400.0
    churn: float = 1.0

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ConfigError("start has no UTC offset, for example 2026-03-02T00:00:00Z")
        checks = (
            ("duration", timedelta(0) < self.duration <= MAX_DURATION, "more than zero and at most ten years"),
            ("seed", self.seed >= 0, "0 or more"),
            ("agents", 1 <= self.agents <= MAX_AGENTS, f"between 1 and {MAX_AGENTS}"),
            ("tenants", 1 <= len(set(self.tenants)) == len(self.tenants) <= 200, "1 to 200 distinct names"),
            ("tenants", all(map(_NAME.fullmatch, self.tenants)), "names of lower case letters, digits and hyphens"),
            ("attacks_per_day", 0 <= self.attacks_per_day <= 1e4, "between 0 and 10,000"),
            ("events_per_agent_day", 0 < self.events_per_agent_day <= 1e5, "more than 0 and at most 100,000"),
            ("churn", 0 <= self.churn <= 1e3, "between 0 and 1,000"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise ConfigError(f"simulation setting {name} must be {rule}, not {getattr(self, name)!r}")

    @property
    def start_ms(self) -> int:
        """First moment, milliseconds since 1970."""
        return (self.start - EPOCH) // timedelta(milliseconds=1)  # exact: floats of `timestamp()` would round

    @property
    def end_ms(self) -> int:
        """First moment after the simulation, milliseconds since 1970."""
        return self.start_ms + self.duration // timedelta(milliseconds=1)


RESTARTS_PER_DAY = 0.5
UPGRADES_PER_DAY = 0.08
KEY_ROTATION_SHARE = 0.5
"""Share of the upgrades that bring a new key, announced by a `client.change` event."""


@dataclass(slots=True)
class AgentDeployment:
    """A period in which version, instance and key of an agent stay the same."""

    start_ms: int
    version: str
    upgrades: int
    instance: str
    thumbprint: str
    drift: float
    rotated_key: bool
    address_suffix: int
    cached_json: str = field(default="", repr=False)


def plan_deployments(
    settings: SimulationSettings, draws: RandomStream, index: int, slug: str, born: int
) -> list[AgentDeployment]:
    """Return the deployments of one agent until the end of the simulation, in time order."""
    rate = (RESTARTS_PER_DAY + UPGRADES_PER_DAY) * settings.churn
    major, minor = 1 + draws.uniform_index(3), draws.uniform_index(10)
    epochs = [
        AgentDeployment(
            start_ms=born,
            version=f"{major}.{minor}",
            upgrades=0,
            instance=_instance_name(slug, settings.seed, index, 0),
            thumbprint=_thumbprint(settings.seed, index, 0),
            drift=1.0,
            rotated_key=False,
            address_suffix=10 + draws.uniform_index(200),
        )
    ]
    at = float(born)
    while rate > 0:
        at += draws.exponential() / rate * DAY_MS
        if at >= settings.end_ms:
            break
        last, number = epochs[-1], len(epochs)
        upgrade = draws.uniform() < UPGRADES_PER_DAY / (RESTARTS_PER_DAY + UPGRADES_PER_DAY)
        rotated = upgrade and draws.uniform() < KEY_ROTATION_SHARE
        epochs.append(
            AgentDeployment(
                start_ms=int(at),
                version=f"{major}.{minor + last.upgrades + 1}" if upgrade else last.version,
                upgrades=last.upgrades + upgrade,
                instance=_instance_name(slug, settings.seed, index, number),
                thumbprint=_thumbprint(settings.seed, index, number) if rotated else last.thumbprint,
                drift=draws.lognormal(1.0, 0.08) if upgrade else last.drift,
                rotated_key=rotated,
                address_suffix=10 + draws.uniform_index(200),  # another address of the same network
            )
        )
    return epochs


def _instance_name(slug: str, seed: int, index: int, number: int) -> str:
    return f"{slug}-{hex_digest('pod', seed, index, number)[:10]}"


def _thumbprint(seed: int, index: int, number: int) -> str:
    raw = bytes.fromhex(hex_digest("key", seed, index, number))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


_UTC_OFFSETS = (1, -5, 9, -8, 0, 5)
"""Hours ahead of UTC of the tenants, in turn."""


@dataclass(frozen=True, slots=True)
class SimulatedTenant:
    """One customer with its own authorization server."""

    index: int
    name: str

    @property
    def domain(self) -> str:
        """The tenant's domain. Everything outside it is external."""
        return f"{self.name}.example"

    @property
    def issuer(self) -> str:
        """Issuer URL of its authorization server."""
        return f"https://as.{self.domain}"

    @property
    def asn(self) -> int:
        """Number of its network (documentation range)."""
        return 64496 + self.index % 16

    @property
    def utc_offset(self) -> int:
        """Hours ahead of UTC."""
        return _UTC_OFFSETS[self.index % len(_UTC_OFFSETS)]

    def user_address(self, number: int) -> str:
        """Return the mail address of the numbered user."""
        first = FIRST_NAMES[number % len(FIRST_NAMES)]
        last = LAST_NAMES[number // len(FIRST_NAMES) % len(LAST_NAMES)]
        turn = number // (len(FIRST_NAMES) * len(LAST_NAMES))
        return f"{first}.{last}{turn or ''}@{self.domain}"


@dataclass(slots=True, kw_only=True)
class SimulatedAgent:
    """An agent: its identity (fixed), and the resources it has used so far (grow)."""

    index: int
    id: str
    tenant: SimulatedTenant
    role: AgentRole
    role_index: int
    users: list[int]
    active_from: int
    active_until: int
    volume: float
    pace: float
    deployments: list[AgentDeployment]
    retires: bool = False
    pool_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def activity(self) -> ActivityProfile:
        """Working hours of the agent."""
        return activity_profile(self.role.shift, self.tenant.utc_offset)

    @property
    def network(self) -> str:
        """First three bytes of its /24, the same in every instance."""
        return f"10.{self.index // 250 % 250}.{self.index % 250}"

    def deployment_at(self, at_ms: int) -> AgentDeployment:
        """Return the deployment at a moment."""
        return self.deployments[max(0, bisect_right(self.deployments, at_ms, key=lambda epoch: epoch.start_ms) - 1)]

    def is_active(self, at_ms: int) -> bool:
        """Return whether the agent is deployed and working at a moment."""
        return self.active_from <= at_ms < self.active_until


class Enterprise:
    """Tenants, users and agents, drawn from the seed. Equal settings build equal enterprises."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.tenants = [SimulatedTenant(i, name) for i, name in enumerate(settings.tenants)]
        self.agents = [self._make_agent(i) for i in range(settings.agents)]
        self._by_role: dict[tuple[int, str], list[SimulatedAgent]] = {}
        for agent in self.agents:
            self._by_role.setdefault((agent.tenant.index, agent.role.name), []).append(agent)

    def _make_agent(self, index: int) -> SimulatedAgent:
        settings = self.settings
        draws = RandomStream(settings.seed, 0, index)
        tenant = self.tenants[index % len(self.tenants)]
        slot, kind = divmod(index // len(self.tenants), len(ROLES))
        role = ROLES[kind]
        number_of_users = 20 + settings.agents // len(self.tenants)
        users = list(dict.fromkeys(draws.uniform_index(number_of_users) for _ in range(4 + draws.uniform_index(9))))
        # Most agents live throughout; 1 % join and 0.5 % retire per day.
        start, end = settings.start_ms, settings.end_ms
        days = (end - start) / DAY_MS * settings.churn
        joins, retires, when, gone = draws.uniform(), draws.uniform(), draws.uniform(), draws.uniform()
        born = start + int((end - start) * when) if joins < 1 - 0.99**days else start
        dies = born + int((end - born) * (0.2 + 0.8 * gone)) if retires < 1 - 0.995**days else end
        style, agent_id = draws.uniform(), f"agent-{role.slug}-{slot}"
        if style < 0.12:
            agent_id = f"https://agents.{tenant.domain}/{role.slug}/{slot}"
        elif style < 0.24:
            agent_id = f"spiffe://{tenant.domain}/ns/prod/sa/{role.slug}-{slot}"
        return SimulatedAgent(
            index=index,
            id=agent_id,
            tenant=tenant,
            role=role,
            role_index=slot,
            users=users,
            active_from=born,
            active_until=dies,
            volume=draws.lognormal(1.0, 0.25),
            pace=draws.lognormal(1.0, 0.2),
            deployments=plan_deployments(settings, draws, index, role.slug, born),
            retires=dies < settings.end_ms,
        )

    def agents_with_role(self, tenant: SimulatedTenant, role: str) -> list[SimulatedAgent]:
        """Return the agents of one role in a tenant, oldest first."""
        return self._by_role.get((tenant.index, role), [])

    def find_callee(self, caller: SimulatedAgent, role: str, at_ms: int, draw: float) -> SimulatedAgent | None:
        """Return the agent to which a caller delegates work of a role: almost always the same, else a stand-in."""
        ring = self.agents_with_role(caller.tenant, role)
        for turn in range(len(ring)):
            candidate = ring[(caller.role_index + (draw >= 0.9) + turn) % len(ring)]
            if candidate is not caller and candidate.is_active(at_ms):
                return candidate
        return None

    @cached_property
    def mean_activity(self) -> float:
        """Mean of the roles' activity over all agents. Dividing by it makes the settings' scale a true mean."""
        return sum(agent.role.activity for agent in self.agents) / len(self.agents)
