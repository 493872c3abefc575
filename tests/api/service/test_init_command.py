"""`trustwatch init`: the file that it writes is valid, with and without the settings in its comments."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.scoring.delivery.actuators.hydra_actuator import HYDRA_DEFAULT_LIFETIME_S
from trustwatch.scoring.delivery.actuators.keycloak_actuator import KEYCLOAK_DEFAULT_LIFETIME_S

RUN = CliRunner()
SECRETS = {
    "TRUSTWATCH_DB_PASSWORD": "p" * 16,
    "TRUSTWATCH_KEYCLOAK_SECRET": "k" * 16,
    "TRUSTWATCH_CONSOLE_SECRET": "c" * 16,
}


def run(*arguments: str | Path) -> Any:
    return RUN.invoke(make_app(), ["init", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "made" / "trustwatch.yaml"
    done = run(made)
    assert done.exit_code == 0, done.output
    return made


def loaded(file: Path, text: str) -> Settings:
    """Settings of the file with another text, and the secret that Hydra's hook needs."""
    (file.parent / "hydra-hook.key").write_text("h" * 32)
    file.write_text(text)
    return load_settings(file, SECRETS)


def uncommented(text: str) -> str:
    """The text with the settings that are in its comments: behind `#` without a single space."""
    return re.sub(r"^#(?=\w|  )", "", text, flags=re.MULTILINE)


def without_local_key(text: str) -> str:
    """The text without the issuer of a trial, which the one in the comment replaces."""
    return re.sub(r'^  - \{issuer: "urn:trustwatch:local".*\n', "", text, flags=re.MULTILINE)


def test_the_file_is_a_trial_on_one_machine(file: Path) -> None:
    settings = load_settings(file, {})

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not settings.distributed
    assert settings.tenants["acme-corp"].mode == "shadow"
    assert settings.console.development_login
    assert not settings.hooks and not settings.actuators and not settings.webhooks
    assert settings.upgrade_warnings() == []


def test_every_setting_in_a_comment_is_valid(file: Path) -> None:
    text = without_local_key(uncommented(file.read_text())).replace("  development_login: true\n", "")
    settings = loaded(file, f'{text}listen: {{public_url: "https://trust.example"}}\n')

    assert settings.distributed and settings.store.url.startswith("postgresql:")
    assert [issuer.issuer for issuer in settings.issuers] == ["https://login.example"]
    assert [caller.name for caller in settings.callers] == ["demo", "gateway", "reader"]
    assert [hook.kind for hook in settings.hooks] == ["hydra"]
    lifetimes = {actuator.kind: actuator.default_lifetime_s for actuator in settings.actuators}
    assert lifetimes == {"hydra": HYDRA_DEFAULT_LIFETIME_S, "keycloak": KEYCLOAK_DEFAULT_LIFETIME_S}
    assert settings.console.oidc is not None and settings.webhooks and settings.lifecycle.enabled
    assert settings.upgrade_warnings() == []


def test_no_link_is_followed_and_no_file_replaced(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "trustwatch.yaml"
    file.symlink_to(victim)
    assert run(file).exit_code == 0
    assert not victim.exists() and not file.is_symlink()
    file.write_text("precious")
    refused = run(file)
    assert refused.exit_code == 1 and "exists already" in refused.output
    assert file.read_text() == "precious"
