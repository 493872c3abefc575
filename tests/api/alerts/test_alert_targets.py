"""Targets of alerts in the settings: what each format needs, what it is told of, and that nothing of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.records.agents import RiskLevel

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "0123456789abcdef0123456789abcdef"
CHAT = "https://hooks.chat.example/services/T0/B0/T0KEN-OF-THE-CHAT"
ENVIRON = {"SOC": SECRET, "CHAT": CHAT, "KEY": KEY}
ALL = """
webhooks:
  - {name: soc, url: "https://soc.example/hook", secret: {env: SOC}}
  - {name: chat, format: slack, url: {env: CHAT}, levels: [critical]}
  - {name: pager, format: pagerduty, url: {file: pager.url}, routing_key: {env: KEY}, levels: [high, critical]}
  - {name: siem, format: ocsf, url: "https://siem.example/in", secret: {env: SOC}, levels: [low, high]}
"""


def load(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "pager.url").write_text("https://events.pagerduty.example/v2/enqueue\n")
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, ENVIRON)


def test_what_keeps_state_is_told_how_it_ends(tmp_path: Path) -> None:
    targets = {target.name: target for target in load(tmp_path, ALL).webhooks}

    assert targets["pager"].levels_taken == {RiskLevel.UNKNOWN, RiskLevel.LOW, RiskLevel.HIGH, RiskLevel.CRITICAL}
    assert targets["chat"].levels_taken == {RiskLevel.CRITICAL}
    assert targets["siem"].levels_taken == {RiskLevel.UNKNOWN, RiskLevel.LOW, RiskLevel.HIGH}
    assert [name for name, target in targets.items() if not target.has_cooldown] == ["pager", "siem"]


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        (
            "format: smoke, url: 'https://a.example'",
            ["Invalid enum value 'smoke'", "cloudevents, slack, pagerduty, ocsf"],
        ),
        ("format: ocsf, url: 'https://a.example'", ["missing required field `secret`", "`ocsf`"]),
        ("format: pagerduty, url: 'https://a.example'", ["missing required field `routing_key`", "`pagerduty`"]),
        ("format: slack, url: 'https://a.example', secret: {env: SOC}", ["`secret` means nothing in format `slack`"]),
        ("url: 'https://a.example', secret: {env: SOC}, routing_key: {env: KEY}", ["`routing_key` means nothing"]),
        ("format: slack, url: {env: NOT_SET}", ["NOT_SET is not set", ".url`"]),
        ("format: slack, url: 'http://T0KEN-OF.example/'", ["`url` must be an https URL"]),
        ("format: slack, url: 'https://u:T0KEN-OF@a.example/'", ["may not hold a user or password"]),
        ("format: slack, url: {env: KEY}", ["`url` must be an https URL"]),
        ("format: slack", ["missing required field `url`"]),
    ],
)
def test_errors_say_what_the_format_needs(tmp_path: Path, members: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"webhooks: [{{name: w, {members}}}]")

    message = str(refused.value)
    assert [part for part in parts if part not in message] == [], message
    assert [secret for secret in (SECRET, KEY, "T0KEN-OF") if secret in message] == []
