"""docs/install.md: "Your own logs", from a folder of exports to scores, as the page says it."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app

from ...support.checkout import DOCS
from ...support.format_samples import audit_log_records

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
DAYS, ROLES, CALLS = 9, 4, 30


def exported_days(folder: Path) -> int:
    """Files of a trail, by region and not by time; returns how many events roles made."""
    template = next(one for one in audit_log_records("aws-cloudtrail") if one["eventName"] == "GetItem")
    for region in ("eu-central-1", "eu-west-1"):
        records = [
            call(template, day, role, number)
            for day in range(DAYS)
            for role in range(ROLES)
            for number in range(CALLS)
            if (number % 2 == 0) == (region == "eu-west-1")
        ]
        path = folder / region / "trail.json.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(json.dumps({"Records": records}).encode()))
    return DAYS * ROLES * CALLS


def call(template: dict[str, Any], day: int, role: int, number: int) -> dict[str, Any]:
    at = START + timedelta(days=day, minutes=15 * number + role)
    text = json.dumps(template).replace("orders-agent", f"agent-{role}")
    return {
        **json.loads(text),
        "eventTime": at.isoformat().replace("+00:00", "Z"),
        "eventID": f"{day}-{role}-{number}",
        "eventName": ("GetItem", "Query", "PutItem")[number % 3],
    }


def test_the_page_leads_from_a_folder_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, in its order; all events of a role are there, and those of the last days are scored."""
    block = re.search(r"<!-- own logs -->\n```\n(.*?)```", (DOCS / "install.md").read_text(), re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    events = exported_days(Path("logs"))

    for line in block[1].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "trustwatch"
        done = CliRunner().invoke(make_app(), arguments)
        assert done.exit_code == 0, done.output
        if told := re.search(r'# "(.*)"', line):
            assert told[1] in done.stderr

    scores = [json.loads(line) for line in Path("scores.jsonl").read_bytes().splitlines()]
    assert len(Path("history.jsonl").read_bytes().splitlines()) == events
    assert {score["time"] >= "2026-03-08" for score in scores} == {True}
    assert len(scores) == 2 * ROLES * CALLS
    assert len({score["agent_id"] for score in scores}) == ROLES
