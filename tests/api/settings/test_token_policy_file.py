"""The token policy as a file, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.composition import live_policy, policy_book
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.records.agents import RiskLevel

FULL = """
version: "2026-11-25.1"
mode: shadow
tenants: {acme: enforce}
descendants: medium
levels:
  high: {max_token_lifetime_s: 45}
  medium: {step_up_scopes: ["pay:*"]}
rules:
  - name: canary
    tenants: [acme]
    agent_types: ["Payment*"]
    mode: enforce
    rollout_percent: 25
    levels:
      high: {max_token_lifetime_s: 30}
      low: {max_token_lifetime_s: 600}
"""


def book(folder: Path, text: str) -> PolicyBook:
    file = folder / "policy.yaml"
    file.write_text(text)
    return policy_book(Settings(token_policy_file=file))


def test_a_file_says_all(tmp_path: Path) -> None:
    found = book(tmp_path, FULL)

    assert (found.version, found.descendants, found.default_mode) == ("2026-11-25.1", RiskLevel.MEDIUM, "shadow")
    assert found.effective_policy("acme", "", "a", "Search").mode == "enforce"
    assert found.rules[0].rollout_percent == 25
    payment = found.effective_policy("acme", "", "a", "Payment")
    assert payment.rule == "canary"
    assert payment.table[RiskLevel.LOW].max_token_lifetime_s == 600


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("version: '1'\nmode: enforced", ["$.mode", "shadow", "enforce"]),
        ("mode: shadow", ["version", "policy_version"]),
        ("version: '1'\nrules: [{name: a, rollout_percent: 120}]", ["$.rules[0].rollout_percent"]),
        ("version: '1'\nrules: [{name: a}, {name: a}]", ["$.rules[1].name", "unique"]),
        ("version: '1'\nrules: [{name: a, levels: {hgih: {}}}]", ["hgih"]),
        ("version: '1'\nlevels: {low: {max_token_lifetime_s: 0}}", ["$.levels.low", "allow"]),
        ("version: '1'\nlevles: {}", ["levles", "`levels`"]),
        ("version: '1'\ndescendants: unknown", ["descendants"]),
        ("version: [", ["is not YAML", "line "]),
        ("version: '1'\nrules: [{name: a}]\nrules: []", ["a name stands twice", "lines 2 and 3"]),
        ("- a", ["mapping"]),
        ("version: 2026-02-30", ["is not YAML"]),
    ],
)
def test_a_wrong_file_says_what_is_wrong_where(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        book(tmp_path, text)

    assert all(part in str(caught.value) for part in ["policy.yaml", *parts]), str(caught.value)


def test_a_change_holds_and_a_mistake_does_not(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: '1'")
    live = live_policy(Settings(token_policy_file=file))

    file.write_text("version: '22'")
    assert [live.refresh(), live.refresh()] == [False, True]
    file.write_text("version: '333'\nmode: no")
    assert [live.refresh(), live.refresh()] == [False, False]

    assert (live.book.version, live.errors) == ("22", 1)
