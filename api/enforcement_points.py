"""Limits that apply to an agent's new tokens at each server that queries us or is notified, as far as its product can.

The policy defines what a level means; a product may be unable to enforce it. The answer states what the server does, so
that no reader relies on a lifetime that no token has.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch_client.risk_answers import EnforcementPoint

from .settings.enforcement_settings import HookSettings
from .settings.root import Settings

OKTA_SHORTEST_S = 300
"""Shortest lifetime that Okta gives a token, s."""

_PRODUCTS = {"hydra": "Ory Hydra", "okta": "Okta", "wso2": "WSO2", "zitadel": "ZITADEL", "keycloak": "Keycloak"}


class EnforcementPoints:
    """Lists the servers that enforce the policy of an agent. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of_agent(
        self, tenant: str, issuer: str, level: RiskLevel, policy: LevelTokenPolicy, *, enforced: bool
    ) -> list[EnforcementPoint]:
        """Servers of an agent, and what each does at *level*, the one that policy acts on; in shadow none acts."""
        points = [
            *(
                EnforcementPoint("hook", hook.name, hook.kind, *_hook_effect(hook, policy))
                for hook in self._settings.hooks
                if hook.tenant in (None, tenant) and hook.issuer in (None, issuer)
            ),
            *(
                EnforcementPoint("actuator", actuator.name, actuator.kind, *_actuator_effect(actuator, level, policy))
                for actuator in self._settings.actuators
                if actuator.serves(tenant, issuer)
            ),
            *self._gateway_points(tenant, issuer, policy),
        ]
        if enforced:
            return points
        text = "shadow: decided and recorded, nothing is refused, shortened or revoked"
        return [msgspec.structs.replace(point, max_token_lifetime_s=None, text=text) for point in points]

    def _gateway_points(self, tenant: str, issuer: str, policy: LevelTokenPolicy) -> Iterator[EnforcementPoint]:
        for entry in self._settings.gateway.issuers:
            if (entry.agent_issuer or entry.issuer) == issuer and (entry.tenant is None or entry.tenant == tenant):
                does = "lets calls pass" if policy.allow else "refuses calls, also with tokens that are out"
                text = f"{does} where a gateway asks; lifetimes stay as issued"
                yield EnforcementPoint("gateway", entry.issuer, "gateway", None, text)


def _hook_effect(hook: HookSettings, policy: LevelTokenPolicy) -> tuple[int | None, str]:
    if not policy.allow:
        return None, "refuses new tokens"
    ceiling, product = policy.max_token_lifetime_s, _PRODUCTS.get(hook.kind, hook.kind)
    if hook.kind in ("hydra", "zitadel"):
        return None, f"cannot shorten: new tokens live as long as {product} gives them"
    if hook.kind == "okta" and ceiling < OKTA_SHORTEST_S:
        return None, f"refuses new tokens: {product} gives none of less than {OKTA_SHORTEST_S} s"
    if hook.kind == "authzen":
        return ceiling, f"tells who asks: at most {ceiling:,} s; to keep it is theirs"
    return ceiling, f"shortens new tokens to at most {ceiling:,} s"


def _actuator_effect(actuator: ActuatorSettings, level: RiskLevel, policy: LevelTokenPolicy) -> tuple[int | None, str]:
    ceiling, product = policy.max_token_lifetime_s, _PRODUCTS.get(actuator.kind, "the receiver")
    if not actuator.acts_at(level):
        return None, f"does nothing at {level.label}: new tokens live as long as {product} gives them"
    if actuator.kind == "webhook":
        asked = f"at most {ceiling:,} s" if policy.allow else "no new tokens"
        confirms = actuator.confirm_url is not None
        known = "it says whether that holds" if confirms else "whether that holds is not known"
        return None, f"is asked for {asked}; {known}"
    if not policy.allow:
        return None, "takes new tokens from the client" + (", and those that are out" if policy.revoke else "")
    return ceiling, f"shortens new tokens of the client to at most {ceiling:,} s, unless they were shorter"
