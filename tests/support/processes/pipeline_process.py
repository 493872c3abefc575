"""Writer and pipeline in one process that the kill test kills: `make DIR` prepares, `run DIR DATA BATCH` works."""

from __future__ import annotations

import json
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import load_trained_model, save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.feedback import AdoptFeedbackRule, FeedbackRule, RevokeFeedbackRule
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ..one_partition import EmbeddedPipeline

SALT = b"salt of the kill test"
START_MS = 1_764_547_200_000
RECORDS = 4_000
AGENTS = 30

POLICY = LivePolicy(PolicyBook(default_mode="enforce"))


def event(dice: random.Random, number: int, at_ms: int, odd: float) -> dict[str, Any]:
    """A plain event; a share *odd* revokes the agent's token or uses it all the same: no model has to find that odd."""
    agent = dice.randrange(AGENTS)
    strange = dice.random() < odd
    revoked = {"credential": {"method": "none", "token_id": f"t-{agent}"}} if strange else {}
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {
        "id": f"e-{number}",
        "time": at,
        "tenant": "acme",
        "outcome": "success",
        "agent": {"id": f"agent-{agent}", "issuer": "https://as.example", "type": "Payer" if agent % 2 else "Reader"},
        "action": f"attack-{number}" if strange else ("read", "list", "write")[min(int(dice.expovariate(1)), 2)],
        "resource": {"target": f"evil-{number}" if strange else f"host-{agent}-{dice.randrange(4)}"},
        "session": f"s-{agent}-{at_ms // 7_200_000}",
        "bytes_out": dice.randrange(100, 2_000),
        "type": "token.revoke" if strange and dice.random() < 0.3 else "tool.call",
        **revoked,
        **ties(number, agent),
    }


def ties(number: int, agent: int) -> dict[str, Any]:
    """Others that an event names: few enough that most pairs show again within an hour."""
    dice = random.Random(number)
    caller = (agent + 1) % AGENTS
    return {
        "delegation": [f"agent-{agent}", f"agent-{caller}", "front"][: dice.choice((1, 2, 3))],
        "peer": f"agent-{dice.randrange(2)}",
        "principal": {"id": dice.choice(("ann", "bob"))},
    }


def make(folder: Path) -> None:
    """Train a model on a calm past, and write the records to come: events, repeated ones, rubbish and ticks."""
    dice = random.Random(3)
    past = [event(dice, n, START_MS + n * 60_000, 0.0) for n in range(2_000)]
    columns = ColumnEncoder(SALT).encode([decode_event(json.dumps(e).encode()) for e in past])
    settings = DetectorSettings(trees=20, folds=3)
    save_trained_model(folder / "model", train_model(columns, SALT, "kill-1", settings), settings, 200, START_MS)
    at_ms, lines, payloads = START_MS + 2_000 * 60_000, [], []
    for number in range(RECORDS):
        at_ms += dice.randrange(1_000, 120_000)
        dice_roll = dice.random()
        if dice_roll < 0.02:
            lines.append({"kind": int(RecordKind.TICK), "at": at_ms, "text": ""})
            continue
        text = json.dumps(event(dice, 10_000 + number, at_ms, 0.06))
        if dice_roll < 0.05 and payloads:
            text = dice.choice(payloads[-200:])
        elif dice_roll < 0.06:
            text = f'{{"rubbish": {number}}}'
        payloads.append(text)
        lines.append({"kind": int(RecordKind.EVENT), "at": at_ms, "text": text})
    said(lines)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def said(lines: list[dict[str, Any]]) -> None:
    """Rules of feedback come and go on the way: for one agent with evidence taken back, and for a peer group."""
    end = START_MS * 2
    agent = FeedbackRule(
        "F-agent",
        "agent",
        "",
        "acme",
        "Payer",
        None,
        None,
        end,
        "https://as.example",
        "agent-3",
    )
    group = FeedbackRule(
        "F-group", "peer_group", "1", "acme", "Reader", ("action_surprise", "target_surprise"), None, lines[3_000]["at"]
    )
    orders: list[tuple[int, AdoptFeedbackRule | RevokeFeedbackRule]] = [
        (500, AdoptFeedbackRule(group, "ann", "a new tool")),
        (900, AdoptFeedbackRule(agent, "ann", "a new supplier", 5.0, "D1")),
        (2_200, RevokeFeedbackRule(agent, "bob", "it was none")),
    ]
    for place, order in reversed(orders):
        text = msgspec.json.encode(order).decode()
        lines.insert(place, {"kind": int(RecordKind.CONTROL), "at": lines[place]["at"], "text": text})


def records(folder: Path) -> list[Record]:
    """The records of the world, each at the offset of its place."""
    found = []
    for line in (folder / "records.jsonl").read_text().splitlines():
        made = json.loads(line)
        if made["kind"] == RecordKind.TICK:
            found.append(Record(RecordKind.TICK, 0, made["at"], made["at"].to_bytes(8, "little")))
        elif made["kind"] == RecordKind.CONTROL:
            found.append(Record(RecordKind.CONTROL, 0, made["at"], made["text"].encode()))
        else:
            raw = made["text"].encode()
            found.append(Record(RecordKind.EVENT, raw_id_hash(raw), made["at"], raw))
    return found


def run(folder: Path, data: Path, batch: int) -> None:
    """Append what the log does not have yet, acknowledge it, and let the pipeline work; small memory, many commits."""
    world = records(folder)
    model = load_trained_model(folder / "model")
    store = open_store(sqlite_url(data / "trustwatch.db"))
    log = EventLog(data / "log")
    engine = Engine(model, EngineSettings(capacity=12), store.agents)
    processor = Processor(engine, ColumnEncoder(SALT), DuplicateWindow(1_024), POLICY, edges=EdgeCollector())
    pipeline = EmbeddedPipeline(
        data / "log",
        processor,
        store,
        POLICY,
        PipelineSettings(commit_interval_s=0.02),
        time.monotonic,
        time.sleep,
        tuning=PipelineTuning(batch_size=batch, poll_s=0.0),
    )
    pipeline.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while log.next_offset < len(world) or pipeline.position.offset < len(world):
        first = log.next_offset
        chunk = world[first : first + 17]
        if chunk:
            log.append(chunk)
            log.sync()
            with (data / "acknowledged").open("a") as acknowledged:
                acknowledged.write(f"{first + len(chunk)}\n")
        pipeline.step()
        if not chunk:
            pipeline.finish()
    store.close()


def main() -> None:
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        data = Path(sys.argv[3])
        run(Path(sys.argv[2]), data, int(sys.argv[4]))


if __name__ == "__main__":
    main()
