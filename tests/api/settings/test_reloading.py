"""What of another settings file comes into force, and what waits for a restart: every member is on one side."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from scripts.settings_list import RELOAD_MARK, settings_list
from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.reloading import RELOADABLE, change_of_settings
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.settings_table import table_rows
from trustwatch.ingest.errors import ConfigError

from ...support.checkout import ROOT

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
    """Streams of security event tokens know the tenants of callers from the start."""
    signals = ISSUERS + CALLER + "shared_signals: {enabled: true}\n"
    change = change_of_settings(settings(tmp_path, signals), settings(tmp_path, signals.replace("[acme]", "['*']")))
    assert (change.applied, change.restart) == ((), ("callers",))
    assert [caller.tenants for caller in change.settings.callers] == [("acme",)]


def test_half_a_file_is_often_a_right_one_that_takes_something_away(tmp_path: Path) -> None:
    """So no file is taken because it changed (decision 0057, which has these numbers)."""
    example = (ROOT / "docs" / "settings.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    lines, environ = example.splitlines(keepends=True), {"SOC_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    file, changes = tmp_path / "settings.yaml", []
    file.write_text(example)
    whole = load_settings(file, environ)
    for count in range(len(lines)):
        file.write_text("".join(lines[:count]))
        with suppress(ConfigError):
            changes.append(change_of_settings(whole, load_settings(file, environ)).applied)

    assert (len(lines), len(changes)) == (33, 18)
    assert all(changes)


def test_a_changed_secret_is_a_change(tmp_path: Path) -> None:
    """Secrets show nothing of themselves, and are compared all the same."""
    (tmp_path / "key").write_text("whsec_" + "c2VjcmV0" * 6)
    hook = 'webhooks: [{name: soc, url: "https://soc.example", secret: {file: key}}]'
    before = settings(tmp_path, hook)
    assert change_of_settings(before, settings(tmp_path, hook)).applied == ()
    (tmp_path / "key").write_text("whsec_" + "b3RoZXIx" * 6)
    assert change_of_settings(before, settings(tmp_path, hook)).applied == ("webhooks",)


def test_the_reference_marks_members_that_exist() -> None:
    """Each name is one of a member, and exactly these are marked; the page says that the mark holds for all below."""
    paths = {path.replace("[]", "") for path, *_ in table_rows(Settings)}
    assert paths >= RELOADABLE
    mark = re.escape(RELOAD_MARK)
    marked = re.findall(rf"^(?:- `|## )([\w.\[\]]+)(?:\n\n|`).*{mark}$", settings_list(), re.MULTILINE)
    assert set(marked) == RELOADABLE


def test_what_is_taken_over_is_what_is_marked() -> None:
    """A member that the table marks and the change leaves out would be a promise that nobody keeps."""
    other = CallerSettings(name="c", client_id="c")
    after = msgspec.structs.replace(Settings(), callers=(other,))
    assert change_of_settings(Settings(), after).applied == ("callers",)
