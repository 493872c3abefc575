"""Reloading: each changed member becomes active or waits for a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.effective import change_of_settings
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings

ISSUERS = 'issuers: [{issuer: "https://as", jwks_file: jwks.json, audiences: [t]}]\n'
CALLER = "callers: [{name: gateway, client_id: g, tenants: [acme], agents: ['*'], bytes_per_day: 100000}]\n"


def settings(folder: Path, text: str) -> Settings:
    file = folder / "settings.yaml"
    file.write_text("settings_version: 2\n" + text)
    return load_settings(file, {})


@pytest.mark.parametrize(
    ("after", "applied", "restart"),
    [
        ("", (), ()),
        ("logs: {level: warning}", ("logs.level",), ()),
        ("risk: {staleness_s: 5}", (), ("risk.staleness_s",)),
        ("tenants: {acme: {mode: enforce}}", ("tenants",), ()),
        ("tenants: {acme: {mode: shadow, domains: [a.example]}}", ("tenants",), ("tenants",)),
        ("token_policy_file: policy.yaml", (), ("token_policy_file",)),
        ("pipeline: {resident_agents: 5}\nlogs: {format: json}", ("logs.format",), ("pipeline.resident_agents",)),
        ("listen: {port: 9}", (), ("listen.port",)),
        (CALLER, ("callers",), ()),
        (CALLER.replace("name: g", "silence_s: 600, name: g"), (), ("callers",)),
        (CALLER + "shared_signals: {enabled: true}", ("callers",), ("shared_signals.enabled",)),
    ],
)
def test_members_are_applied_or_named(
    tmp_path: Path, after: str, applied: tuple[str, ...], restart: tuple[str, ...]
) -> None:
    before = settings(tmp_path, ISSUERS)
    change = change_of_settings(before, settings(tmp_path, ISSUERS + after))
    assert (change.applied, change.restart) == (applied, restart)
    again = change_of_settings(change.settings, settings(tmp_path, ISSUERS + after))
    assert (again.applied, again.restart) == ((), restart)


def test_callers_that_more_than_their_token_is_bound_to_wait_for_a_restart(tmp_path: Path) -> None:
    signals = ISSUERS + CALLER + "shared_signals: {enabled: true}\n"
    change = change_of_settings(settings(tmp_path, signals), settings(tmp_path, signals.replace("[acme]", "['*']")))
    assert (change.applied, change.restart) == ((), ("callers",))
    assert [caller.tenants for caller in change.settings.callers] == [("acme",)]


def test_a_changed_secret_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("whsec_" + "c2VjcmV0" * 6)
    hook = 'webhooks: [{name: soc, url: "https://soc.example", secret: {file: key}}]'
    before = settings(tmp_path, hook)
    assert change_of_settings(before, settings(tmp_path, hook)).applied == ()
    (tmp_path / "key").write_text("whsec_" + "b3RoZXIx" * 6)
    assert change_of_settings(before, settings(tmp_path, hook)).applied == ("webhooks",)
