"""What is said to hold at a server is what its product does there, by kind, level and mode."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.agents.risk_answer_cache import enforcement_points
from trustwatch.api.settings.enforcement_settings import GatewayIssuerSettings, GatewaySettings, HookSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorAuthSettings, ActuatorSettings
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import AgentName, RiskLevel

AS = "https://as.example"
SECRET = Secret("whsec_" + "QUFB" * 8)
SHORT = LevelTokenPolicy(True, 60, None, True, False, False)
LONG = LevelTokenPolicy(True, 900, None, True, False, False)
DENIED = LevelTokenPolicy(False, 0, (), False, False, True)


def hook(kind: Any, **more: Any) -> HookSettings:
    return HookSettings(name="ask", kind=kind, tenant="acme", issuer=AS, secret=SECRET, **more)


def actuator(kind: Any, **more: Any) -> ActuatorSettings:
    if kind == "keycloak":
        more |= {"realm": "agents", "auth": ActuatorAuthSettings(bearer=SECRET)}
    if kind == "webhook":
        more |= {"secret": SECRET}
    return ActuatorSettings(name="tell", kind=kind, url="https://as.example/admin", issuers=(AS,), **more)


def named(issuer: str) -> AgentName:
    return AgentName(1, "acme", issuer, "bot")


def held(settings: Settings, level: RiskLevel, policy: LevelTokenPolicy, **more: Any) -> list[tuple[int | None, str]]:
    found = enforcement_points(settings, named(AS), level, policy, **{"enforced": True, **more})
    return [(point.max_token_lifetime_s, point.text) for point in found]


@pytest.mark.parametrize(
    ("asked", "policy", "lifetime", "said"),
    [
        (hook("hydra"), SHORT, None, "cannot shorten: new tokens live as long as Ory Hydra gives them"),
        (hook("zitadel"), SHORT, None, "cannot shorten: new tokens live as long as ZITADEL gives them"),
        (hook("okta"), LONG, 900, "shortens new tokens to at most 900 s"),
        (hook("okta"), SHORT, None, "refuses new tokens: Okta gives none of less than 300 s"),
        (hook("wso2"), SHORT, 60, "shortens new tokens to at most 60 s"),
        (HookSettings(name="ask", kind="authzen"), SHORT, 60, "tells who asks: at most 60 s; to keep it is theirs"),
        (hook("hydra"), DENIED, None, "refuses new tokens"),
    ],
    ids=["hydra", "zitadel", "okta", "okta-short", "wso2", "authzen", "denied"],
)
def test_hooks_do_what_their_product_can(
    asked: HookSettings, policy: LevelTokenPolicy, lifetime: int | None, said: str
) -> None:
    assert held(Settings(hooks=(asked,)), RiskLevel.HIGH, policy) == [(lifetime, said)]


@pytest.mark.parametrize(
    ("told", "level", "policy", "lifetime", "said"),
    [
        (actuator("hydra"), RiskLevel.HIGH, SHORT, 60, "shortens new tokens of the client to at most 60 s"),
        (actuator("keycloak"), RiskLevel.MEDIUM, LONG, 900, "shortens new tokens of the client to at most 900 s"),
        (actuator("hydra"), RiskLevel.LOW, LONG, None, "does nothing at low: new tokens live as long as Ory Hydra"),
        (actuator("keycloak"), RiskLevel.UNKNOWN, SHORT, None, "does nothing at unknown: new tokens live as long as"),
        (actuator("hydra", every_level=True), RiskLevel.UNKNOWN, LONG, 900, "shortens new tokens of the client to at"),
        (actuator("hydra"), RiskLevel.CRITICAL, DENIED, None, "takes new tokens from the client, and those that are"),
        (
            actuator("webhook"),
            RiskLevel.HIGH,
            SHORT,
            None,
            "is asked for at most 60 s; whether that holds is not known",
        ),
        (
            actuator("webhook", confirm_url="https://as.example/state"),
            RiskLevel.HIGH,
            SHORT,
            None,
            "is asked for at most 60 s; it says whether that holds",
        ),
    ],
    ids=["hydra", "keycloak", "low", "unknown", "every-level", "denied", "webhook", "webhook-confirms"],
)
def test_actuators_act_from_medium_on_unless_they_are_to_act_at_every_level(
    told: ActuatorSettings, level: RiskLevel, policy: LevelTokenPolicy, lifetime: int | None, said: str
) -> None:
    [(holds, text)] = held(Settings(actuators=(told,)), level, policy)
    assert holds == lifetime
    assert text.startswith(said)


def test_a_gateway_refuses_calls_and_changes_no_lifetime() -> None:
    gateway = GatewaySettings(
        issuers=(GatewayIssuerSettings(issuer=AS, jwks_uri=f"{AS}/jwks", audiences=("api",), tenant="acme"),)
    )
    texts = [held(Settings(gateway=gateway), RiskLevel.HIGH, policy) for policy in (SHORT, DENIED)]
    assert [text for [(_, text)] in texts] == [
        "lets calls pass where a gateway asks; lifetimes stay as issued",
        "refuses calls, also with tokens that are out where a gateway asks; lifetimes stay as issued",
    ]


def test_nothing_holds_in_shadow_and_nobody_is_named_for_other_issuers() -> None:
    settings = Settings(hooks=(hook("wso2"),), actuators=(actuator("hydra"),))
    assert {lifetime for lifetime, _ in held(settings, RiskLevel.HIGH, SHORT, enforced=False)} == {None}
    assert all(text.startswith("shadow") for _, text in held(settings, RiskLevel.HIGH, SHORT, enforced=False))
    other = enforcement_points(settings, named("https://other"), RiskLevel.HIGH, SHORT, enforced=True)
    assert other == []
