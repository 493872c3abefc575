"""Parts of pages, and the vendored files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest
from msgspec.structs import replace

from trustwatch.api import console
from trustwatch.api.access.service import containment_times
from trustwatch.api.agents.service import read_baseline_profile
from trustwatch.api.console import rendering
from trustwatch.api.console.activity import MAX_POINTS, ActivitySampler, RiskSeries
from trustwatch.api.console.pages.overview_page import order_by_last_rise
from trustwatch.api.console.rendering import StaticAssets
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.features import layout
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.pipeline.pipeline_status import PipelineStatus
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary
from trustwatch.scoring.records.containment import Actuation

from ...support.checkout import DOCS

VENDOR = Path(str(console.__file__)).parent / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text(encoding="utf-8"))
FILES = [(package, file) for package in MANIFEST["packages"] for file in package["files"]]


def summary(agent_id: str = "a", tenant: str = "t", level: int = 1, risk: float = 0.5, at_ms: int = 1) -> AgentSummary:
    name = AgentName(IdentityHasher().agent_key(tenant, "i", agent_id), tenant, "i", agent_id)
    return AgentSummary(name, "", level, risk, 1.0, 0.0, 1, at_ms, at_ms, 0, 1, "", b"", "")


@pytest.mark.parametrize(("package", "file"), FILES, ids=[file["path"] for _, file in FILES])
def test_vendored_files_are_what_the_manifest_says(package: dict[str, Any], file: dict[str, str]) -> None:
    assert hashlib.sha256((VENDOR / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert any(one["path"].endswith("LICENSE") for one in package["files"])
    assert package["version"] and package["licence"]


def test_nothing_else_is_vendored() -> None:
    found = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}

    assert found == {file["path"] for _, file in FILES} | {"manifest.json"}


def test_the_example_of_the_docs_loads(tmp_path: Path) -> None:
    page = (DOCS / "console.md").read_text(encoding="utf-8")
    (tmp_path / "secret").write_text("s")
    example = page.partition("```yaml\n")[2].partition("```")[0].replace("/etc/trustwatch/console-secret", "secret")
    (tmp_path / "trustwatch.yaml").write_text(example)
    console = load_settings(tmp_path / "trustwatch.yaml", {}).console

    assert console.oidc is not None
    assert [grant.name for grant in console.oidc.grants] == ["soc-leads", "acme"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("console: {enabled: true}", "no person could sign in"),
        ("console: {enabled: true, development_login: true}\nlisten: {host: 0.0.0.0}", "only for this machine"),
        (
            "console: {enabled: true, oidc: {issuer: 'https://i.example', client_id: c, name_claim: email, grants: "
            "[{name: a, claim: groups, value: a, tenants: [t]}]}}\nlisten: {host: 0.0.0.0}",
            "must not travel unencrypted",
        ),
        ("console: {development_login: true}\nlisten: {public_url: 'https://t.example'}", "only for this machine"),
        ("console: {session_key: short}", "at least 32"),
    ],
)
def test_settings_that_would_open_too_much_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "trustwatch.yaml").write_text(text)

    with pytest.raises(ConfigError, match=told):
        load_settings(tmp_path / "trustwatch.yaml", {})


def test_a_trail_keeps_what_moved() -> None:
    trail = RiskSeries(max_agents=2)
    for risk, at_ms in ((0.01, 1), (0.5, 10), (0.501, 20), (0.6, 30), (0.6, 30 + 600_000)):
        trail.record(summary(risk=risk, at_ms=at_ms))
    key = summary().name.key

    assert [(one.at_ms, round(one.risk, 3)) for one in trail.points(key)] == [(10, 0.5), (30, 0.6), (600_030, 0.6)]
    for number in range(10 * MAX_POINTS):
        trail.record(summary("b", risk=0.3 + 0.1 * (number % 2), at_ms=number))
    points = trail.points(summary("b").name.key)
    assert len(points) <= MAX_POINTS
    assert points[0].at_ms == 0 and points[-1].at_ms == 10 * MAX_POINTS - 1
    trail.record(summary("c", at_ms=1))
    assert trail.points(key) == []


def figures_of(view: RiskView, status: PipelineStatus) -> tuple[ActivitySampler, Any]:
    now = SimpleNamespace(ms=1000, s=0.0)
    services: Any = SimpleNamespace(
        risk_view=view, pipeline_status=status, now_ms=lambda: now.ms, monotonic=lambda: now.s
    )
    return ActivitySampler(services), now


def test_rates_are_events_over_time() -> None:
    status = PipelineStatus()
    figures, now = figures_of(RiskView(), status)
    for events in (0, 100, 100, 30):
        status.work_counts = {"events": events}
        figures.sample()
        now.ms += 2000

    assert [rate for _, rate in figures.throughput_series()] == [50.0, 0.0, 15.0]
    assert figures.throughput(3.0) == pytest.approx(7.5)


async def _levels(figures: ActivitySampler, tenants: Any) -> dict[str, int]:
    return await figures.level_counts(tenants)


def test_levels_are_counted_by_tenant() -> None:
    view = RiskView()
    figures, _ = figures_of(view, PipelineStatus())
    view.apply([summary("a", "t", 4), summary("b", "t", 1), summary("a", "u", 4)])

    assert asyncio.run(_levels(figures, ("t",))) == {"unknown": 0, "low": 1, "medium": 0, "high": 0, "critical": 1}
    assert asyncio.run(_levels(figures, None))["critical"] == 2
    assert figures.risk_series.points(summary().name.key)


def test_a_profile_says_how_much_is_known() -> None:
    rows = np.zeros(1, layout.STATE_ROW)
    numbers = rows["numbers"][0]
    numbers[layout.N_EVENTS] = 40
    numbers[layout.N_DISTINCT + layout.K_ACTION] = 1.5  # halved as it aged: no count
    rows["known"][0, [layout.K_ACTION, layout.K_TARGET]] = 3, layout.REGION_SIZE
    (
        numbers[layout.N_COUNT + layout.Q_GAP],
        numbers[layout.N_MEAN + layout.Q_GAP],
        numbers[layout.N_VAR + layout.Q_GAP],
    ) = 5, np.log1p(20.0), 0.25
    row: Any = SimpleNamespace(features=rows.tobytes())
    found = read_baseline_profile(row)

    assert found is not None
    assert (found.learned, found.distinct_counts) == (40, [("actions", 3, True), ("destinations", 64, False)])
    (gap,) = found.usual
    assert gap.mean == pytest.approx(20.0, rel=1e-4) and gap.low < 20 < gap.high
    assert read_baseline_profile(SimpleNamespace(features=b"short")) is None  # type: ignore[arg-type]
    assert read_baseline_profile(None) is None


def test_containment_is_told_of_what_events_led_to() -> None:
    name = AgentName(1, "t", "i", "a")

    def done(caused: int, confirmed: int, status: Any = "confirmed") -> Actuation:
        return Actuation("as", name, 1, b"", b"", status, caused, caused, confirmed, confirmed, "")

    found = containment_times([*(done(1000, 1000 + 10 * n) for n in range(1, 101)), done(0, 5), done(7, 0, "failed")])

    assert (found.confirmed, found.p50_s, found.p99_s, found.failed) == (100, 0.5, 0.99, 1)
    assert containment_times([]).confirmed == 0


def test_of_one_level_who_rose_last_comes_first(make_decision: Any) -> None:
    """Whatever is left of the displayed risk; without a decision the last look at the agent counts."""
    old, new, high = (
        replace(summary(name, level=level, risk=risk), decision_id=name)
        for name, level, risk in (("old", 4, 0.9), ("new", 4, 0.1), ("high", 3, 1.0))
    )
    reasons = {
        one.decision_id: make_decision(one, number, decided_ms=1000 * number)
        for number, one in enumerate((old, new, high), 1)
    }
    unknown = summary("unknown", level=4, at_ms=1500)

    assert [one.name.agent_id for one in order_by_last_rise([high, old, unknown, new], reasons)] == [
        "new",
        "unknown",
        "old",
        "high",
    ]


def test_the_text_of_the_pages_needs_every_value() -> None:
    """A name that is misspelt in a template fails instead of showing nothing."""
    renderer = rendering.PageRenderer(StaticAssets(), (), lambda: 0)
    request: Any = SimpleNamespace(url=SimpleNamespace(path="/"), headers={})
    with pytest.raises(jinja2.UndefinedError):
        renderer.page(request, "sign_in.html", None)


def test_a_name_turns_nothing_round_and_form_fields_are_exact() -> None:
    renderer = rendering.PageRenderer(StaticAssets(), (), lambda: 0)
    environment = renderer._environment
    name = "nimda\u202e\u2066\x9b31m<b>\u00fc"
    shown = environment.from_string("<td>{{ name }}, {{ name | breakable }}</td>{{ '%s' | format(name) }}")
    text = shown.render(name=name)
    assert not any(mark in text for mark in "\u202e\u2066\x9b")
    assert text.count("nimda\\u202e\\u2066\\x9b31m&lt;b&gt;\u00fc") == 3
    field = environment.from_string('<input value="{{ name | e }}">')
    assert field.render(name=name) == '<input value="nimda\u202e\u2066\x9b31m&lt;b&gt;\u00fc">'


def test_every_form_field_of_the_templates_is_exact() -> None:
    """A field without `| e` would send back another name than it was given."""
    for template in (Path(str(console.__file__)).parent / "templates").glob("*.html"):
        for value in re.findall(r'value="\{\{ ([^}]*) \}\}"', template.read_text(encoding="utf-8")):
            assert value.endswith("| e"), f"{template.name}: {value}"
