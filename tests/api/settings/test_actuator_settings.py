"""Settings of actuators: errors at start, and the channels made from them."""

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

AUTH = "auth: {client_id: tw, client_secret: s, token_url: 'https://kc/token'}"
SIGNED = "secret: whsec_c2VjcmV0IG9mIHRoZSByZWNlaXZlciBmb3IgdGVzdHM="


def settings(tmp_path: Path, *actuators: str, more: str = "") -> Settings:
    file = tmp_path / "settings.yaml"
    file.write_text("actuators:\n" + "".join(f"  - {{{one}}}\n" for one in actuators) + more)
    return load_settings(file, {})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("name: a, kind: hydra, issuers: [i]", "missing required field `url`"),
        ("name: a, kind: hydra, url: 'https://h'", "missing required field `issuers`"),
        ("name: a, kind: hydra, url: 'http://h', issuers: [i]", "`url` must be an https URL"),
        ("name: a, kind: hydra, url: 'http://h.example', issuers: [i]", "only to loopback"),
        ("name: a, kind: okta, url: 'https://h', issuers: [i]", "one of hydra, keycloak, webhook"),
        ("name: a, kind: hydra, url: 'https://h', issuers: [i], realm: r", "`realm` means nothing to kind `hydra`"),
        (f"name: a, kind: keycloak, url: 'https://k', issuers: [i], {AUTH}", "`realm`, which kind `keycloak` needs"),
        ("name: a, kind: keycloak, url: 'https://k', issuers: [i], realm: r", "`auth`, which kind `keycloak` needs"),
        ("name: a, kind: webhook, url: 'https://w', issuers: [i]", "`secret`, which kind `webhook` needs"),
        (f"name: a, kind: webhook, url: 'https://w', issuers: [i], {SIGNED}, {AUTH}", "`auth` means nothing"),
        ("name: a, kind: webhook, url: 'https://w', issuers: [i], secret: hunter2", "`secret` must be whsec_"),
        (f"name: a, kind: webhook, url: 'https://w#x', issuers: [i], {SIGNED}", "credentials or a fragment"),
        ("name: a, kind: hydra, url: 'https://h', issuers: [i], auth: {}", "either `bearer` or `client_id`"),
        (
            "name: a, kind: hydra, url: 'https://h', issuers: [i], auth: {client_id: c}",
            "`client_secret` or a `private_",
        ),
        (
            "name: a, kind: hydra, url: 'https://h', issuers: [i], auth: {client_id: c, client_secret: s}",
            "`token_url`, which a `client_id` needs",
        ),
        (
            "name: a, kind: hydra, url: 'https://h', issuers: [i], "
            "auth: {client_id: c, private_key: k, token_url: 'https://t'}",
            "needs its `key_id`",
        ),
        ("name: a, kind: hydra, url: 'https://h', issuers: [i], default_lifetime_s: 0", ">= 1"),
        (f"name: {'a' * 65}, kind: hydra, url: 'https://h', issuers: [i]", "at most 64 characters"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, wrong: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        settings(tmp_path, wrong)
    assert "$.actuators[0]" in str(error.value)


def test_names_are_unique_among_all_targets(tmp_path: Path) -> None:
    hydra = "name: a, kind: hydra, url: 'https://h', issuers: [i]"
    with pytest.raises(ConfigError, match="must be unique"):
        settings(tmp_path, hydra, hydra)
    hook = f"webhooks:\n  - {{name: a, url: 'https://soc.example', {SIGNED}}}\n"
    with pytest.raises(ConfigError, match=r"webhooks\[0\].*must be unique"):
        settings(tmp_path, hydra, more=hook)


def acting(tmp_path: Path, given: Settings) -> list[Any]:
    async def make() -> list[Any]:
        store = open_store(sqlite_url(tmp_path / "s.db"))
        verdicts = PolicyEvaluator(
            RiskView(), LivePolicy(PolicyBook()), ActiveInterventions(), lambda _: False, lambda: 0
        )
        made = ActuationService(given, store, verdicts, lambda: None)
        try:
            return made.channels
        finally:
            await made.close()
            store.close()

    return asyncio.run(make())


def test_a_key_of_another_kind_stops_the_start(tmp_path: Path) -> None:
    auth = "auth: {client_id: tw, private_key: no-key, key_id: k, token_url: 'https://kc/t'}"
    given = settings(tmp_path, f"name: a, kind: keycloak, url: 'https://k', realm: r, issuers: [i], {auth}")
    with pytest.raises(ConfigError, match="'k' is not a private key in PEM") as error:
        acting(tmp_path, given)
    assert "no-key" not in str(error.value)
