"""`trustwatch acts`: what a person sees at a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

from ...support.case_triage import Triage, agent, rise

CASE = "case-D0001"


@pytest.fixture
def triage(site: Any) -> Triage:
    """Somebody who acknowledged a case and closed it, in November 2025 as the clock of the service says."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), level=4, network="AS65537"))
    person.act(CASE, "acknowledge")
    site.clock.now += 1
    person.act(CASE, "close", verdict="expected", note="a drill")
    return person


def run(triage: Triage, *arguments: str) -> Result:
    """The command against the service."""
    given = ["--url", triage.site.url, "--token", triage.site.token()]
    return CliRunner().invoke(make_app(), ["acts", *arguments, *given])


def test_acts_are_listed_newest_first(triage: Triage) -> None:
    """For people as a table, for programs as JSON lines, as the API has them."""
    table = run(triage).stdout
    assert table.index("case: closed verdict expected") < table.index("case: acknowledged")
    assert "a drill" in table and CASE in table and "gateway" in table
    rows = [json.loads(line) for line in run(triage, "--json").stdout.splitlines()]
    assert rows == triage.site.get("/v1/acts").json()["items"]
    assert [row["action"] for row in rows] == ["closed", "acknowledged"]
    assert len(run(triage, "--json", "--limit", "1").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--kind", "case", "--by", "gateway"), 2),
        (("--kind", "pin"), 0),
        (("--by", "nobody"), 0),
        (("--since", "2020-01-01"), 2),
        (("--until", "2020-01-01T00:00"), 0),
        (("--since", "24h"), 0),
        (("--until", "1h"), 2),
    ],
    ids=str,
)
def test_acts_are_narrowed(triage: Triage, options: tuple[str, ...], count: int) -> None:
    """By kind, person and time; times without a zone are UTC, and relative ones count from now."""
    assert len(run(triage, "--json", *options).stdout.splitlines()) == count


def test_what_can_not_be_read_is_refused(triage: Triage) -> None:
    """Of the options here, of others by the service; nothing stands on stdout."""
    for options, words in ((("--since", "noon"), "2026-11-28T18:04"), (("--until", "xd"), "such as 14d")):
        refused = run(triage, *options)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr
    wrong = run(triage, "--kind", "coffee")
    assert wrong.exit_code == 1 and "kind" in wrong.stderr
