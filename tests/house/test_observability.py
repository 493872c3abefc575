"""Rules and dashboard speak of metrics that there are, and each alert has a runbook."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from scripts.write_dashboard import DASHBOARD, RUNBOOKS, dashboard_text
from trustwatch.api.http.prometheus_metrics import METRICS

from ..support.checkout import ROOT

RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())
GOLDEN = (ROOT / "tests" / "golden" / "recorded" / "metrics.jsonl").read_text().splitlines()
EACH = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EACH if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in EACH if "record" in rule}
LIBRARY = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
"""Of the Prometheus client, beside ours."""
SERIES = re.compile(r"(?<![\w:\"])(?:\w+:)?(?:trustwatch|process)_\w+(?::\w+)?")


def known_series() -> set[str]:
    """Every name that a scrape may have, and those that rules record."""
    declared = {json.loads(line)["name"]: json.loads(line)["kind"] for line in GOLDEN}
    parts = {f"{name}_{part}" for name, kind in declared.items() if "histogram" in kind for part in ("bucket", "count")}
    return {*declared, *parts, *RECORDED, *LIBRARY}


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_what_is_asked_for_exists() -> None:
    """Every series of a rule or panel is a declared metric, or recorded."""
    asked = [rule["expr"] for rule in EACH] + dashboard_queries()
    found = {name for query in asked for name in SERIES.findall(query)}

    assert len(found) > 30
    assert found - known_series() == set()
    assert {metric.name for metric in METRICS} == {json.loads(line)["name"] for line in GOLDEN}


def test_labels_that_are_asked_for_exist() -> None:
    """What stands in braces or behind `by` is a label of some metric, or Prometheus' own."""
    labels = {label for metric in METRICS for label in metric.labels} | {"job", "instance", "le"}
    asked = " ".join([rule["expr"] for rule in EACH] + dashboard_queries())
    named = {name for group in re.findall(r"by \(([^)]*)\)", asked) for name in re.split(r",\s*", group)}
    named |= set(re.findall(r"[{,]\s*(\w+)=", asked))

    assert named - labels == set()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    """Severity, summary, description, and a runbook whose heading is there."""
    alert = ALERTS[name]
    page = (ROOT / "reference" / "runbooks.md").read_text()

    assert alert["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}#{name.lower()}"
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "**It means**" in section
    assert "**Do**" in section


def test_runbooks_are_those_of_alerts() -> None:
    """None stays behind, and each alert has a test that sees it silent and firing."""
    page = (ROOT / "reference" / "runbooks.md").read_text()
    tests = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.test.yml").read_text())["tests"]

    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == ALERTS.keys()
    assert {test["name"] for test in tests if test["name"].startswith("Trustwatch")} == ALERTS.keys()


def test_addresses_of_the_site_are_its_pages() -> None:
    """As `make docs` names them: a page is a file beside the others, ended by `.html`."""
    links = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    paths = [url.removeprefix(links["Documentation"]) for url in (RUNBOOKS, links["Changelog"])]

    assert "\nuse_directory_urls: false" in (ROOT / "mkdocs.yml").read_text()
    assert [path for path in paths if not (ROOT / path.replace(".html", ".md")).is_file()] == []


def test_metrics_have_their_base_unit_in_the_name() -> None:
    """Seconds and bytes as Prometheus has them; counters end in `_total`, what is no counter does not."""
    wrong = []
    for metric in METRICS:
        base = metric.name.removesuffix("_total")
        unit = {"s": "_seconds", "bytes": "_bytes"}.get(metric.unit, "")
        if (unit and not base.endswith(unit)) or ("counter" in metric.kind) != metric.name.endswith("_total"):
            wrong.append(metric.name)
    assert wrong == []


def test_the_dashboard_is_what_the_code_says() -> None:
    """`python -m scripts.write_dashboard` writes it; panels lie side by side."""
    board = json.loads(DASHBOARD.read_text())

    assert DASHBOARD.read_text() == dashboard_text()
    places = [tuple(panel["gridPos"][name] for name in ("x", "y")) for panel in board["panels"]]
    assert len(places) == len(set(places))
    assert all(panel["description"] for panel in board["panels"] if panel["type"] != "row")


def test_no_line_of_the_log_has_a_member_that_the_log_writes_itself() -> None:
    """Else it is lost: an agent's `level` became that of the line, *info*."""
    own, lost = {"event", "level", "timestamp"}, []
    for path in (path for part in ("api", "scoring", "ingest", "models") for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not own & {keyword.arg for keyword in node.keywords}:
                continue
            if re.search(r"\b_?log\b|^line$", ast.unparse(node.func)):
                lost.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not lost
