"""Kill -9 at any moment: nothing acknowledged is lost, nothing is applied twice, and the end is as if undisturbed."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import RecordKind
from trustwatch.models.model_persistence import load_trained_model

from ..support.checkout import ROOT, process_command
from ..support.nightly import size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KILLS = size(each_push=6, nightly=18)
ENDED_BEFORE = 2
"""Kills at most that come too late: the run has ended."""


def start(folder: Path, data: Path, batch: int) -> subprocess.Popen[bytes]:
    data.mkdir(exist_ok=True)
    command = process_command("pipeline_process", "run", folder, data, batch)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        assert process.wait(within_s) == 0
    except subprocess.TimeoutExpired:
        return False
    return True


def killed_at_random(folder: Path, data: Path, dice: random.Random) -> int:
    """Run to the end, killed again and again; every fourth time while it starts, else while it works."""
    kills = 0
    while True:
        with start(folder, data, 23) as process:
            if kills % 4 == 3:
                time.sleep(dice.uniform(0.0, 1.5))
            else:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(dice.uniform(0.0, 0.1))
            if kills >= KILLS or finished(process, 0.0):
                assert finished(process, 120.0)
                return kills
            process.kill()
            process.wait()
        kills += 1


def stored(data: Path) -> dict[str, Any]:
    """Everything in the store that the pipeline writes, but which start and which commit wrote it, and random salts."""
    with closing(sqlite3.connect(data / "trustwatch.db")) as connection:
        tables = {}
        for name in ("agents", "decisions", "dead_letters", "edges"):
            rows = connection.execute(f"select * from {name}")
            columns = [column for column, *_ in rows.description]
            kept = [at for at, column in enumerate(columns) if not column.startswith(("version_", "chain_"))]
            tables[name] = sorted(([row[at] for at in kept] for row in rows), key=repr)
        rules = connection.execute("select rule_id, from_offset, until_offset, matched, last_ms from feedback_holdings")
        tables["rules"] = sorted(rules.fetchall())
        tables["outbox"] = sorted(connection.execute("select key, payload from outbox").fetchall())
        tables["offset"] = connection.execute('select "offset" from positions').fetchall()
        tables["events"] = sorted(connection.execute("select agent_id, events from agents").fetchall())
    return tables


def behaviour_by_agent(folder: Path, upto: int) -> Counter[str]:
    """Distinct well-formed events of each agent among the first *upto* records."""
    unique: dict[str, str] = {}
    for line in (folder / "records.jsonl").read_text().splitlines()[:upto]:
        made = json.loads(line)
        text = made["text"] if made["kind"] == RecordKind.EVENT else ""
        if text and "rubbish" not in text:
            made = json.loads(text)
            unique[made["id"]] = made["agent"]["id"]
    return Counter(unique.values())


def test_killed_pipeline_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """After the kills all rows equal those of an undisturbed run bit for bit; every acknowledged event counts once."""
    subprocess.run(process_command("pipeline_process", "make", tmp_path), cwd=ROOT, check=True)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    with start(tmp_path, undisturbed, 400) as process:
        assert finished(process, 120.0)
    kills = killed_at_random(tmp_path, disturbed, random.Random())
    assert kills >= KILLS - ENDED_BEFORE
    expected, found = stored(undisturbed), stored(disturbed)
    assert len(expected["decisions"]) > 50
    assert len(expected["dead_letters"]) > 10
    assert len(expected["edges"]) > 100
    assert [rule[2] > 0 and rule[3] > 20 for rule in expected["rules"]] == [True, True]
    for table in expected:
        assert found[table] == expected[table], table
    acknowledged = int((disturbed / "acknowledged").read_text().splitlines()[-1])
    seeds = seeded_events(tmp_path)
    applied = {agent: events - seeds[agent] for agent, events in found["events"]}
    assert applied == dict(behaviour_by_agent(tmp_path, acknowledged))


def seeded_events(folder: Path) -> dict[str, int]:
    """Events with which each agent begins, from the model's history."""
    model = load_trained_model(folder / "model")
    seeds, identities = model.seeds, IdentityHasher(model.salt)
    by_key = dict(zip(seeds.keys.tolist(), seeds.events.tolist(), strict=True))
    names = [f"agent-{number}" for number in range(30)]
    return {name: by_key.get(identities.agent_key("acme", "https://as.example", name), 0) for name in names}
