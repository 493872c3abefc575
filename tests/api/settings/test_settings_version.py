"""Defaults of new settings files, and what files of release 0.1 keep for one release."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError

ISSUER = "issuers: [{issuer: i, audiences: [a], jwks_file: keys}]\n"
REPORTS = "callers: [{name: edge, client_id: gw, tenants: [acme], issuers: [i]}, {name: soc, client_id: soc}]\n"
ASKS = "gateway: {clients: [{client_id: kong, secret: 'sixteen characters'}]}\n"


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "settings.yaml"
    file.write_text(text)
    return load_settings(file, {"POSTGRES": "x"})


def test_a_file_of_0_1_keeps_its_reach_and_is_told_what_to_write(tmp_path: Path) -> None:
    settings = loaded(tmp_path, ISSUER + REPORTS + ASKS)

    callers, clients = settings.upgrade_warnings()
    assert settings.callers[0].agents is None
    assert "callers edge name no `agents`" in callers and "agents: [self]" in callers
    assert "`gateway.clients` kong name no `tenants`" in clients
    named = REPORTS.replace("issuers: [i]", 'issuers: [i], agents: ["*"]') + ASKS.replace(
        "secret", "tenants: [x], secret"
    )
    assert loaded(tmp_path, ISSUER + named).upgrade_warnings() == []


def test_a_new_file_binds_a_caller_to_itself(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "settings_version: 2\n" + ISSUER + REPORTS)

    assert settings.callers[0].agents == ("self",)
    assert settings.upgrade_warnings() == []
    with pytest.raises(ConfigError, match=r"name the `agents`, or remove it.*`\$\.callers\[0\]\.agents`"):
        loaded(
            tmp_path, "settings_version: 2\n" + ISSUER + REPORTS.replace("issuers: [i]", "issuers: [i], trusted: true")
        )


def test_a_new_file_names_the_tenants_of_gateways(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"required if `settings_version` is 2.*`\$\.gateway\.clients\[0\]\.tenants`"):
        loaded(tmp_path, "settings_version: 2\n" + ASKS)
    with pytest.raises(ConfigError, match="must name at least one"):
        loaded(tmp_path, ASKS.replace("secret", "tenants: [], secret"))


@pytest.mark.parametrize(("version", "default"), [(1, "record"), (2, "step_up")])
def test_new_deployments_ask_about_actions_outside_of_a_boundary(tmp_path: Path, version: int, default: str) -> None:
    text = f"settings_version: {version}\n" + ISSUER
    assert loaded(tmp_path, text).outside_boundary == default
    assert loaded(tmp_path, text + "outside_boundary: deny\n").outside_boundary == "deny"
