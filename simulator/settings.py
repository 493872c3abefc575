"""Settings of a simulation, checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from trustwatch.ingest.errors import ConfigError

MAX_AGENTS = 1_000_000
MAX_DURATION = timedelta(days=3660)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A label of a domain name, as each tenant has a domain."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack to lay over the enterprise."""

    scenario: str
    at: timedelta | None = None
    agent: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """A whole simulation: equal settings give identical bytes.

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
        return epoch_milliseconds(self.start)

    @property
    def end_ms(self) -> int:
        """First moment after the simulation, milliseconds since 1970."""
        return self.start_ms + self.duration // timedelta(milliseconds=1)


def epoch_milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware datetime, exactly (floats of `timestamp()` would round)."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
