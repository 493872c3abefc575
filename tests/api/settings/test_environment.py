"""Members of the settings by variables of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FILE = """
listen: {port: 9000}
tenants: {acme: {domains: [acme.example]}}
webhooks: [{name: soc, url: "https://soc.example", secret: {env: SOC}}]
"""


def load(tmp_path: Path, variables: dict[str, str], text: str = FILE) -> Settings:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, {"SOC": SECRET, **variables})


def refusal(tmp_path: Path, variables: dict[str, str], text: str = FILE) -> str:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, variables, text)
    return str(refused.value)


def test_every_kind_of_member_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    settings = load(
        tmp_path,
        {
            "TRUSTWATCH__LISTEN__HOST": "0.0.0.0",
            "TRUSTWATCH__LISTEN__PUBLIC_URL": "null",
            "TRUSTWATCH__KAFKA__NAMES__EVENTS": "7",
            "TRUSTWATCH__RISK__ALERT_BUDGET__MEDIUM": "30",
            "TRUSTWATCH__TENANTS__acme__MODE": "enforce",
            "TRUSTWATCH__CONSOLE__ENABLED": "false",
            "TRUSTWATCH__RISK__DISABLED_SIGNALS": "deep_delegation, method_downgrade",
            "TRUSTWATCH__ARCHIVE__DIRECTORY": "archive",
            "TRUSTWATCH__RETENTION_DAYS": "7",
            "TRUSTWATCH__REGISTRY": "[{tenant: acme, issuer: i, agent: a, type: T}]",
            "TRUSTWATCH__VERIFICATION__REFRESH_S": "",
        },
    )

    assert (settings.listen.host, settings.listen.port, settings.listen.public_url) == ("0.0.0.0", 9000, None)
    assert (settings.kafka.topic_names.events, settings.risk.budget.medium) == ("7", 30)
    assert (settings.tenants["acme"].mode, settings.tenants["acme"].domains) == ("enforce", ("acme.example",))
    assert settings.console.enabled is False
    assert set(settings.risk.disabled_signals) == {"deep_delegation", "method_downgrade"}
    assert settings.archive.directory == tmp_path.parent / "archive"
    assert settings.retention_days == 7
    assert settings.registry[0].type == "T"
    assert settings.verification == Settings().verification


def test_entries_of_a_list_are_changed_and_added(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        {
            "TRUSTWATCH__WEBHOOKS__0__LEVELS": "critical",
            "TRUSTWATCH__WEBHOOKS__1__NAME": "pager",
            "TRUSTWATCH__WEBHOOKS__1__URL": "https://pager.example",
            "TRUSTWATCH__WEBHOOKS__1__SECRET": SECRET,
            "TRUSTWATCH__WEBHOOKS__2": '{name: chat, url: "https://chat.example", secret: {env: SOC}}',
        },
    )

    assert [webhook.name for webhook in settings.webhooks] == ["soc", "pager", "chat"]
    assert settings.webhooks[0].levels == ("critical",)
    assert {webhook.secret.reveal() for webhook in settings.webhooks} == {SECRET}


def test_a_secret_by_reference(tmp_path: Path) -> None:
    secret = "whsec_c2VjcmV0IG9mIHRoZSByZWNlaXZlciBmb3IgdGVzdHM="
    (tmp_path / "kept").write_text(f"{secret}\n")
    settings = load(tmp_path, {"TRUSTWATCH__WEBHOOKS__0__SECRET": f"{{file: {tmp_path / 'kept'}}}"})

    assert settings.webhooks[0].secret.reveal() == secret


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("LISTN__PORT", "1", ["unknown field `listn`", "`listen`"]),
        ("LISTEN__PRT", "1", ["unknown field `prt`", "`$.listen`", "`port`"]),
        ("LISTEN__PORT", "many", ["Expected `int`, got `str`", "`$.listen.port`", "TCP port"]),
        ("LISTEN__PORT", "70000", ["`int` <= 65535", "`$.listen.port`"]),
        ("LISTEN__PORT__X", "1", ["has no members", "`$.listen.port`"]),
        ("LISTEN", "5", ["Expected `object`, got `int`", "`$.listen`"]),
        ("TENANTS__acme__MODE", "on-fire", ["`$.tenants[...].mode`", "shadow, enforce"]),
        ("WEBHOOKS__soc__URL", "https://x", ["number of an entry", "`soc`", "`$.webhooks`"]),
        ("WEBHOOKS__2__URL", "https://x", ["entry 1 is the next", "`$.webhooks[2].url`"]),
        ("WEBHOOKS", "[{", ["is not YAML"]),
        ("WEBHOOKS", "[\udcff]", ["is not YAML"]),  # bytes that are no UTF-8, as `os.environ` has them
        ("WEBHOOKS", "[!!bool maybe]", ["is not YAML"]),
        ("WEBHOOKS", "[!!int '']", ["is not YAML"]),
        ("LISTEN", "{port: 1, port: 2}", ["a name stands twice", "lines 1 and 1"]),
        ("RISK__DISABLED_SIGNALS", "typo", ["no such hard signal: typo", "deep_delegation"]),
        ("", "1", ["unknown field ``", "`listen`"]),
    ],
)
def test_an_error_names_the_variable_the_member_and_what_it_may_be(
    tmp_path: Path, variable: str, value: str, parts: list[str]
) -> None:
    message = refusal(tmp_path, {f"TRUSTWATCH__{variable}": value})

    assert f"TRUSTWATCH__{variable}" in message.partition(": ")[0]
    assert [part for part in parts if part not in message] == [], message


def test_no_message_quotes_a_secret(tmp_path: Path) -> None:
    for value in (f"{{{SECRET}", f"{{file: nowhere, x: {SECRET}}}"):
        assert SECRET not in refusal(tmp_path, {"TRUSTWATCH__WEBHOOKS__0__SECRET": value})
