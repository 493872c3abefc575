"""`trustwatch agents` and `release` against a real service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.commits import Commit, Position

from ...support.console_records import row_of

AS = "https://as.example"
RISKS = {"calm": (1, 0.1), "worst": (4, 0.99), "bad": (4, 0.91), "odd": (2, 0.5), "new": (0, 0.0)}
"""Agents, their levels and scores."""


@pytest.fixture(scope="module")
def site(shared: Any) -> Any:
    keep(shared, [row_of(name, level=level, risk_score=score) for name, (level, score) in RISKS.items()])
    return shared


def keep(site: Any, rows: Sequence[AgentRow]) -> None:
    before = site.store.partitions.claim(0)
    site.store.commit(Commit(before, Position(0, before.epoch, before.offset + 1), rows, [], [], []))


def run(site: Any, *arguments: str) -> Result:
    return CliRunner().invoke(make_app(), [*arguments, "--url", site.url, "--token", site.token("gateway")])


def test_explain_tells_what_the_risk_came_with(site: Any, summary: Any) -> None:
    site.report([summary("robbed"), summary("quiet", level=1, risk_score=0.0)])
    at = ("--tenant", "acme", "--issuer", AS)

    told = run(site, "explain", "robbed", *at).stdout
    assert ["network", "AS65537", "new", "2025-11-24T15:58:00.000Z"] in [line.split() for line in told.splitlines()]
    answer = json.loads(run(site, "explain", "robbed", *at, "--json").stdout)["risk"]
    assert [(one["kind"], one["status"]) for one in answer["indicators"]] == [("network", "new")]
    assert "AS65537" not in run(site, "explain", "quiet", *at).stdout
