"""What changes about an agent while it runs: restarts, versions, keys."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from .calendar import DAY_MS
from .draws import RandomStream, hex_digest
from .settings import SimulationSettings

RESTARTS_PER_DAY = 0.5
UPGRADES_PER_DAY = 0.08
KEY_ROTATION_SHARE = 0.5
"""Share of the upgrades that bring a new key, announced by a `client.change` event."""


@dataclass(slots=True)
class AgentDeployment:
    """A span of time in which an agent's version, instance and key stay the same.

    Args:
        start_ms: first moment, milliseconds since 1970.
        upgrades: version changes before it, 0 at first.
        drift: factor on volume and pace of this version, near 1: a new version behaves a little differently.
        rotated_key: it began with a new key.
        address_suffix: last byte of the instance's address.
        cached_json: cache of the JSON that is the same for all events of the epoch.
    """

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
    """Epochs of one agent from its first moment to the end of the simulation, in time order."""
    rate = (RESTARTS_PER_DAY + UPGRADES_PER_DAY) * settings.churn
    major, minor = 1 + draws.uniform_index(3), draws.uniform_index(10)
    epoch = AgentDeployment(
        start_ms=born,
        version=f"{major}.{minor}",
        upgrades=0,
        instance=_instance_name(slug, settings.seed, index, 0),
        thumbprint=_thumbprint(settings.seed, index, 0),
        drift=1.0,
        rotated_key=False,
        address_suffix=10 + draws.uniform_index(200),
    )
    epochs = [epoch]
    at = float(born)
    while rate > 0:
        at += draws.exponential() / rate * DAY_MS
        if at >= settings.end_ms:
            break
        epochs.append(_next_deployment(epochs[-1], int(at), draws, (slug, settings.seed, index, len(epochs))))
    return epochs


def _next_deployment(
    last: AgentDeployment, at_ms: int, draws: RandomStream, key: tuple[str, int, int, int]
) -> AgentDeployment:
    """The epoch after a restart or an upgrade: either way a new instance at another address of the same network."""
    slug, seed, index, number = key
    upgrade = draws.uniform() < UPGRADES_PER_DAY / (RESTARTS_PER_DAY + UPGRADES_PER_DAY)
    rotated = upgrade and draws.uniform() < KEY_ROTATION_SHARE
    major, minor = last.version.split(".")
    return AgentDeployment(
        start_ms=at_ms,
        version=f"{major}.{int(minor) + 1}" if upgrade else last.version,
        upgrades=last.upgrades + upgrade,
        instance=_instance_name(slug, seed, index, number),
        thumbprint=_thumbprint(seed, index, number) if rotated else last.thumbprint,
        drift=draws.lognormal(1.0, 0.08) if upgrade else last.drift,
        rotated_key=rotated,
        address_suffix=10 + draws.uniform_index(200),
    )


def _instance_name(slug: str, seed: int, index: int, number: int) -> str:
    return f"{slug}-{hex_digest('pod', seed, index, number)[:10]}"


def _thumbprint(seed: int, index: int, number: int) -> str:
    """Looks like an RFC 7638 thumbprint; there is no key behind it."""
    raw = bytes.fromhex(hex_digest("key", seed, index, number))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
