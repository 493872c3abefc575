"""`trustwatch init`: the file that it writes is valid, with and without the settings in its comments."""

from __future__ import annotations

import base64
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.scoring.delivery.actuators.client_actuator import HYDRA_DEFAULT_LIFETIME_S, KEYCLOAK_DEFAULT_LIFETIME_S

from ...support.checkout import ROOT
from ...support.format_samples import taken

RUN = CliRunner()
SECRETS = {
    "TRUSTWATCH_DB_PASSWORD": "p" * 16,
    "TRUSTWATCH_KEYCLOAK_SECRET": "k" * 16,
    "TRUSTWATCH_CONSOLE_SECRET": "c" * 16,
}
NOW = 1_764_000_000_000


def run(*arguments: str | Path) -> Any:
    return RUN.invoke(make_app(), ["init", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that the command writes."""
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
    """Readable for its owner alone; agents are watched and not acted on."""
    settings = load_settings(file, {})

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not settings.distributed
    assert settings.tenants["acme-corp"].mode == "shadow"
    assert settings.console.development_login
    assert not settings.hooks and not settings.actuators and not settings.webhooks
    assert settings.upgrade_warnings() == []


def test_every_setting_in_a_comment_is_valid(file: Path) -> None:
    """All together, as a deployment has them: Kafka and PostgreSQL, an authorization server, people who sign in."""
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


def test_every_block_of_a_comment_is_valid_alone(file: Path) -> None:
    """A person takes one after the other into the file."""
    text = file.read_text()
    blocks = list(re.finditer(r"(?:^#(?:\w|  ).*\n)+", text, re.MULTILINE))

    assert len(blocks) >= 8
    for block in blocks:
        before = text[: block.start()]
        if block[0].startswith("#  - issuer"):
            before = without_local_key(before)
        loaded(file, before + uncommented(block[0]) + text[block.end() :])


def test_no_link_is_followed_and_no_file_replaced(tmp_path: Path) -> None:
    """In a shared folder others may have put one there."""
    victim, file = tmp_path / "victim", tmp_path / "trustwatch.yaml"
    file.symlink_to(victim)
    assert run(file).exit_code == 0
    assert not victim.exists() and not file.is_symlink()
    file.write_text("precious")
    refused = run(file)
    assert refused.exit_code == 1 and "exists already" in refused.output
    assert file.read_text() == "precious"


def test_the_printed_next_steps_let_the_reader_in(file: Path) -> None:
    """The token is one of a caller of the file, and the link to the console is there."""
    issued = RUN.invoke(make_app(), ["token", "--settings", str(file)])
    claims = json.loads(base64.urlsafe_b64decode(issued.stdout.split(".")[1] + "=="))
    link = RUN.invoke(make_app(), ["console-link", "--settings", str(file)])

    assert claims["client_id"] in {caller.client_id for caller in load_settings(file, {}).callers}
    assert "note:" not in issued.stderr
    assert link.exit_code == 0


def test_a_token_for_no_caller_is_noted(file: Path) -> None:
    """A service with these settings would refuse it."""
    issued = RUN.invoke(make_app(), ["token", "--client-id", "operator", "--settings", str(file)])
    assert "no caller of these settings has the client id operator" in issued.stderr
    assert issued.stdout.count(".") == 2


def test_the_log_of_keycloak_is_that_of_agents(tmp_path: Path) -> None:
    """Of this realm, without administrators, questions of APIs and what Trustwatch does."""
    settings = loaded(tmp_path / "trustwatch.yaml", (ROOT / "examples/keycloak/trustwatch.yaml").read_text())
    logs = next(caller for caller in settings.callers if caller.name == "keycloak-logs")
    login = {
        "realmName": "agents",
        "type": "CLIENT_LOGIN",
        "clientId": "clerk-7",
        "time": 1_764_000_000_000,
        "id": "e1",
    }
    others = [{"realmName": "other"}, {"type": None}, {"type": "INTROSPECT_TOKEN"}, {"clientId": "trustwatch"}]
    assert len(taken("keycloak", login, logs.own_mapping()).events) == 1
    assert [taken("keycloak", login | other, logs.own_mapping()).events for other in others] == [[]] * 4
