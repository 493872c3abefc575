"""`trustwatch search`: what a person sees at a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

from ...support.case_triage import Triage, agent, rise


@pytest.fixture
def busy(site: Any, summary: Any) -> Any:
    """A service with one agent, its decision and its case."""
    Triage(site).raise_agents(rise(1, agent("bot"), network="AS65537", software="curl 8"))
    site.report([summary("bot", level=3)])
    return site


def run(site: Any, *arguments: str) -> Result:
    """A command against the service."""
    return CliRunner().invoke(make_app(), ["search", *arguments, "--url", site.url, "--token", site.token()])


def test_what_fits_is_listed_by_kind(busy: Any) -> None:
    """Kinds that have nothing are left out; for programs all is JSON."""
    shown = run(busy, "bot").stdout
    assert [word for word in ("agents", "people", "cases", "decisions", "events") if f"{word}\n" in shown] == [
        "agents",
        "cases",
        "decisions",
    ]
    assert "case-D0001" in shown
    body = json.loads(run(busy, "network:AS65537", "--kind", "cases", "--json").stdout)
    assert [one["case_id"] for one in body["cases"]] == ["case-D0001"]
    assert body["decisions"] is None


def test_arguments_with_blanks_are_values(busy: Any) -> None:
    """One argument is a whole query; of several, each is a term."""
    assert "D0001" in run(busy, 'software:"curl 8" agent:bot').stdout
    assert "D0001" in run(busy, "software:curl 8", "agent:bot").stdout
    assert run(busy, "software:curl 9", "agent:bot").stdout == "nothing was found\n"


def test_what_is_no_field_or_no_query_is_told(busy: Any) -> None:
    """On standard error, so that output stays what was found."""
    told = run(busy, "adress:1.2.3.4")
    assert (told.stdout, told.exit_code) == ("nothing was found\n", 0)
    assert "adress is no field" in told.stderr
    wrong = run(busy, "level:hihg")
    assert wrong.exit_code != 0
    assert "there are unknown, low, medium" in wrong.stderr
