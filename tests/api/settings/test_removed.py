"""Removed settings: a warning for the old default, else an error with the line of the changelog."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.settings_table import settings_table
from trustwatch.api.settings import loading
from trustwatch.api.settings.loading import REMOVED_SETTINGS, ReadSettings, RemovedSetting, read_settings
from trustwatch.ingest.errors import ConfigError

from ...support.checkout import ROOT

LINE = "use `listen.port`."
WEBHOOK = 'webhooks: [{name: soc, url: "https://soc.example", format: slack%s}]\n'


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "webhooks[].colour": (None, LINE),
        "tenants.NAME.speed": (5.0, LINE),
        "retention_weeks": (3, LINE),
        "chart": ({"size": 10, "axis": {"log": False}}, LINE),
    }
    monkeypatch.setattr(loading, "REMOVED_SETTINGS", {path: RemovedSetting(*row) for path, row in rows.items()})


def read(folder: Path, text: str, **environ: str) -> ReadSettings:
    file = folder / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    return read_settings(file, environ)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (WEBHOOK % ", colour: null", ".webhooks[0].colour"),
        ("tenants: {acme: {mode: enforce, speed: 5}}", ".tenants[...].speed"),
        ("retention_weeks: 3", ".retention_weeks"),
        ("chart: {axis: {log: false}}", ".chart"),
        ("chart: {}", ".chart"),
    ],
)
def test_an_old_default_is_left_out_with_a_warning(tmp_path: Path, text: str, place: str) -> None:
    settings = read(tmp_path, text)

    (warning,) = settings.warnings
    assert warning.startswith(f"{tmp_path / 'settings.yaml'}: delete what was removed: ")
    assert warning.endswith(f"{LINE} - at `${place}`")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (WEBHOOK % "" + "tenants: {acme: {speed: 6}}", ".tenants[...].speed"),
        (WEBHOOK % ", colour: {shade: SECRET}", ".webhooks[0].colour"),
        ("retention_weeks: null", ".retention_weeks"),
        ("chart: {axis: {log: true}}", ".chart"),
        ("chart: {depth: 10}", ".chart"),
        ("chart: [10]", ".chart"),
    ],
)
def test_any_other_value_is_refused_with_the_line(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)

    assert str(refused.value) == f"{tmp_path / 'settings.yaml'}: this setting was removed: {LINE} - at `${place}`"


@pytest.mark.parametrize(
    ("variable", "default", "other"),
    [
        ("TRUSTWATCH__WEBHOOKS__0__COLOUR", "null", "red"),
        ("TRUSTWATCH__TENANTS__acme__SPEED", "5", "[broken: yaml"),
        ("TRUSTWATCH__RETENTION_WEEKS", "3", "4"),
        ("TRUSTWATCH__CHART__AXIS__LOG", "false", "true"),
    ],
)
def test_variables_count_alike(tmp_path: Path, variable: str, default: str, other: str) -> None:
    text = WEBHOOK % ""
    (warning,) = read(tmp_path, text, **{variable: default}).removed
    assert warning.startswith(f"{variable}: delete what was removed: {LINE}")
    with pytest.raises(ConfigError, match=rf"^{variable}: this setting was removed: {LINE}"):
        read(tmp_path, text, **{variable: other})
    assert read(tmp_path, text, **{variable: ""}).removed == []


def test_rows_are_of_settings_that_are_gone_and_stand_in_the_changelog() -> None:
    declared = settings_table()
    changelog = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    for path, row in REMOVED_SETTINGS.items():
        assert f"| `{path}` |" not in declared
        assert row.line in changelog
