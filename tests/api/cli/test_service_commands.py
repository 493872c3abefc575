"""Commands made from the API's operations, against a real service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from scripts.command_index import operations_index
from trustwatch.api.cli.lazy_commands import OPERATIONS_FILE
from trustwatch.api.cli.main import make_app
from trustwatch.api.cli.service_commands import ServiceClient
from trustwatch.api.http.app import DocumentedApp
from trustwatch.api.service.slices import SLICES

from ...support.case_triage import Triage, agent, rise

CASE = "case-D0001"


@pytest.fixture
def triage(site: Any) -> Triage:
    """A service with a case of two agents that a person acknowledged and closed."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), network="AS65537"), rise(2, agent("b"), level=4, network="AS65537"))
    person.act(CASE, "acknowledge")
    site.clock.now += 1
    person.act(CASE, "close", verdict="expected", note="a drill")
    return person


def run(triage: Triage, *arguments: str, client: str = "gateway", **options: Any) -> Result:
    given = ["--url", triage.site.url, "--token", triage.site.token(client)]
    return CliRunner().invoke(make_app(), [*arguments, *given], **options)


def test_the_index_is_what_the_document_says() -> None:
    assert OPERATIONS_FILE.read_text(encoding="utf-8") == operations_index(DocumentedApp(SLICES).openapi())


def test_lists_are_read_page_by_page(triage: Triage) -> None:
    rows = [json.loads(line) for line in run(triage, "call", "list_acts").stdout.splitlines()]
    assert rows == triage.site.get("/v1/acts").json()["items"]
    assert [row["action"] for row in rows] == ["closed", "acknowledged"]
    assert len(run(triage, "call", "list_acts", "limit=1").stdout.splitlines()) == 1
    assert run(triage, "call", "list_acts", "by=nobody").stdout == ""
    wrong = run(triage, "call", "list_acts", "kind=coffee")
    assert (wrong.exit_code, wrong.stdout, "kind" in wrong.stderr) == (1, "", True)


def test_a_body_comes_from_a_file_or_standard_input(triage: Triage, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"note": "not so sure"}')
    done = run(triage, "call", "reopen_case", f"case_id={CASE}", "--body", str(body))
    assert json.loads(done.stdout)["status"] in ("open", "acknowledged"), done.output
    added = run(triage, "call", "add_case_note", f"case_id={CASE}", "--body", "-", input='{"note": "piped"}')
    assert added.exit_code == 0, added.output
    assert "piped" in run(triage, "call", "get_case_timeline", f"case_id={CASE}").stdout


def test_an_answer_is_written_to_a_file_or_not_at_all(triage: Triage, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    report, missing = folder / "report.md", folder / "missing.md"
    done = run(triage, "call", "get_case_report", f"case_id={CASE}", "--out", str(report))
    assert done.exit_code == 0 and report.read_text().startswith(f"# Case {CASE}")
    refused = run(triage, "call", "get_case_report", "case_id=none", "--out", str(missing))
    assert (refused.exit_code, "404" in refused.stderr) == (1, True)
    assert list(folder.iterdir()) == [report]


def test_a_chain_ends_with_0_if_it_is_intact(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), network="AS65537"))
    done = run(person, "decisions", "verify", client="all")
    assert done.exit_code == 0 and "intact: True" in done.stdout, done.output
    monkeypatch.setattr(ServiceClient, "call", lambda *_, **__: httpx2.Response(200, json={"intact": False}))
    broken = run(person, "decisions", "verify", client="all")
    assert (broken.exit_code, "intact: False" in broken.stdout) == (1, True)


def test_what_the_service_refuses_is_told_in_its_words(triage: Triage) -> None:
    refused = run(triage, "models", "promote", "none", "--why", "x", "--force")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "503 Unavailable: this service keeps no models" in refused.stderr
