"""Settings of gateways, hooks and actuators: errors name the place, and never the secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.access.actuation import ActuationService
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

SECRET = "a secret of 24 letters!!"
ISSUER = 'issuer: "https://as.example", jwks_uri: "https://as.example/jwks", audiences: [a]'
GATEWAY = [
    (f"issuers: [{{{ISSUER}}}]", ["`tenant`, `tenant_claim`", "gateway.issuers[0]"]),
    (f"issuers: [{{{ISSUER}, tenant: t}}, {{{ISSUER}, tenant: u}}]", ["two entries have the same name"]),
    (f"issuers: [{{{ISSUER}, tenant: t, client_id: c}}]", ["`client_secret` or a `private_key`"]),
    (f"issuers: [{{{ISSUER}, tenant: t, client_secret: c}}]", ["need a `client_id`"]),
    (f"issuers: [{{{ISSUER}, tenant: t, client_id: c, private_key: k}}]", ["`key_id`"]),
    (f"issuers: [{{{ISSUER}, tenant: t, revocation_url: 'http://as.example'}}]", ["https URL"]),
    (f"issuers: [{{{ISSUER}, tenant: t, introspection: {{url: 'ftp://x'}}}}]", ["https URL"]),
    ("clients: [{client_id: kong, secret: short}]", ["16", "gateway.clients[0]"]),
    (f"clients: [{{client_id: kong, secret: {SECRET}, tenants: []}}]", ["tenants"]),
    ("safe_methods: [get]", ["safe_methods"]),
    ("risk_header: 'X-Risk: high'", ["risk_header"]),
    ("resource_metadata: 'http://api.example'", ["https URL"]),
    ("on_failure: maybe", ["open", "closed"]),
]
HYDRA = f'name: hydra, kind: hydra, tenant: acme, issuer: "https://as.example", secret: "{SECRET}"'
HOOKS = [
    ("{name: h, kind: hydra, tenant: acme, issuer: i}", ["missing required field `secret`"]),
    (f'{{name: h, kind: okta, issuer: i, secret: "{SECRET}"}}', ["missing required field `tenant`"]),
    (f'{{name: h, kind: wso2, tenant: acme, secret: "{SECRET}"}}', ["missing required field `issuer`"]),
    ("{name: h, kind: hydra, tenant: acme, issuer: i, secret: short}", ["at least 16 printable ASCII characters"]),
    (f"{{{HYDRA.replace('24', 'ü')}}}", ["at least 16 printable ASCII characters"]),
    (f"{{{HYDRA}, proof: basic}}", ["`user:password`"]),
    (f"{{{HYDRA}, proof: mtls}}", ["one of header, bearer, basic"]),
    (f"{{{HYDRA}, header: X-Key}}", ["$.hooks[0].header"]),
    (f"{{{HYDRA}, agent: 'a['}}", ["`agent`: no JMESPath expression"]),
    (f"{{{HYDRA.replace('name: hydra', 'name: Hydra/1')}}}", ["$.hooks[0].name"]),
    (f"{{{HYDRA}}}, {{{HYDRA}}}", ["$.hooks[1].name"]),
    (f"{{{HYDRA}, on_failure: maybe}}", ["one of open, closed"]),
    (f'{{name: a, kind: authzen, secret: "{SECRET}"}}', ["is not allowed for kind `authzen`"]),
    ("{name: a, kind: authzen}, {name: b, kind: authzen}", ["only one hook may be of kind `authzen`"]),
    ("{name: k, kind: keycloak}", ["one of hydra, okta, wso2, zitadel, authzen"]),
]
AUTH = "auth: {client_id: tw, client_secret: s, token_url: 'https://kc/token'}"
SIGNED = "secret: whsec_c2VjcmV0IG9mIHRoZSByZWNlaXZlciBmb3IgdGVzdHM="
OWN = "name: a, kind: hydra, url: 'https://h', issuers: [i]"
KEYCLOAK = "name: a, kind: keycloak, url: 'https://k', issuers: [i]"
WEBHOOK = "name: a, kind: webhook, url: 'https://w', issuers: [i]"
ACTUATORS = [
    ("name: a, kind: hydra, issuers: [i]", "missing required field `url`"),
    ("name: a, kind: hydra, url: 'https://h'", "missing required field `issuers`"),
    ("name: a, kind: hydra, url: 'http://h', issuers: [i]", "`url` must be an https URL"),
    ("name: a, kind: hydra, url: 'http://h.example', issuers: [i]", "only to loopback"),
    ("name: a, kind: okta, url: 'https://h', issuers: [i]", "one of hydra, keycloak, webhook"),
    (f"{OWN}, realm: r", "`realm` means nothing to kind `hydra`"),
    (f"{KEYCLOAK}, {AUTH}", "`realm`, which kind `keycloak` needs"),
    (f"{KEYCLOAK}, realm: r", "`auth`, which kind `keycloak` needs"),
    (WEBHOOK, "`secret`, which kind `webhook` needs"),
    (f"{WEBHOOK}, {SIGNED}, {AUTH}", "`auth` means nothing"),
    (f"{WEBHOOK}, secret: hunter2", "`secret` must be whsec_"),
    (f"name: a, kind: webhook, url: 'https://w#x', issuers: [i], {SIGNED}", "credentials or a fragment"),
    (f"{OWN}, auth: {{}}", "either `bearer` or `client_id`"),
    (f"{OWN}, auth: {{client_id: c}}", "`client_secret` or a `private_"),
    (f"{OWN}, auth: {{client_id: c, client_secret: s}}", "`token_url`, which a `client_id` needs"),
    (f"{OWN}, auth: {{client_id: c, private_key: k, token_url: 'https://t'}}", "needs its `key_id`"),
    (f"{OWN}, default_lifetime_s: 0", ">= 1"),
    (f"name: {'a' * 65}, kind: hydra, url: 'https://h', issuers: [i]", "at most 64 characters"),
]


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *((f"gateway: {{{text}}}", told) for text, told in GATEWAY),
        *((f"hooks: [{text}]", told) for text, told in HOOKS),
        *((f"actuators: [{{{text}}}]", [said, "$.actuators[0]"]) for text, said in ACTUATORS),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)

    message = str(refused.value)
    assert [part for part in told if part not in message] == [], message
    assert not any(secret in message for secret in (SECRET, "hunter2", "short ", "'short'")), message


def test_secrets_come_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    for given in ("{file: key}", "{env: HOOK_KEY}"):
        settings = load(tmp_path, "hooks: [{" + HYDRA.replace(f'"{SECRET}"', given) + "}]", HOOK_KEY=SECRET)

        assert settings.hooks[0].secret is not None
        assert settings.hooks[0].secret.reveal() == SECRET
        assert SECRET not in repr(settings)


def test_names_are_unique_among_all_targets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be unique"):
        load(tmp_path, f"actuators: [{{{OWN}}}, {{{OWN}}}]")
    hook = f"webhooks: [{{name: a, url: 'https://soc.example', {SIGNED}}}]"
    with pytest.raises(ConfigError, match=r"webhooks\[0\].*must be unique"):
        load(tmp_path, f"actuators: [{{{OWN}}}]\n{hook}")


def acting(tmp_path: Path, given: Settings) -> list[Any]:
    async def make() -> list[Any]:
        store = open_store(sqlite_url(tmp_path / "s.db"))
        policy, interventions = LivePolicy(PolicyBook()), ActiveInterventions()
        verdicts = PolicyEvaluator(RiskView(), policy, interventions, lambda _: False, lambda: 0)
        made = ActuationService(given, store, verdicts, lambda: None)
        try:
            return made.channels
        finally:
            await made.close()
            store.close()

    return asyncio.run(make())


def test_a_key_of_another_kind_stops_the_start(tmp_path: Path) -> None:
    auth = "auth: {client_id: tw, private_key: no-key, key_id: k, token_url: 'https://kc/t'}"
    given = load(tmp_path, f"actuators: [{{{KEYCLOAK}, realm: r, {auth}}}]")
    with pytest.raises(ConfigError, match="'k' is not a private key in PEM") as error:
        acting(tmp_path, given)
    assert "no-key" not in str(error.value)
