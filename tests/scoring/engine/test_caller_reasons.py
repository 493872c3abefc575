"""The caller is the first reason, of all evidence since the agent was quiet: it counts once."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.file_source import FileSource
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_training import train_model
from trustwatch.scoring.engine.agent_rows import decode_reasons
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.explanations import MAX_CALLER_REASONS, PRIOR_REASON_MARKER, with_callers
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.simulator.demo import EVENTS_PER_AGENT_DAY
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import Attack, SimulationSettings

from ...support.nightly import size

START = datetime(2026, 10, 1, tzinfo=UTC)
HISTORY = timedelta(days=8)
SALT = b"salt of a thief!"


@pytest.mark.parametrize("seed", range(7, 7 + size(each_push=1, nightly=6)))
def test_a_stolen_credential_is_told_by_the_thief(seed: int) -> None:
    """The demo's attack on a smaller enterprise: each rise names the network, the address and the software first."""
    plan = SimulationSettings(
        start=START,
        duration=HISTORY + timedelta(days=1),
        seed=seed,
        agents=12,
        attacks=(Attack("stolen_credential", at=HISTORY + timedelta(hours=16)),),
        events_per_agent_day=EVENTS_PER_AGENT_DAY,
    )
    border = (START + HISTORY).timestamp() * 1000
    made = list(simulate(plan))
    history = [decode_event(one.event) for one in made if one.at_ms < border]
    model = train_model(ColumnEncoder(SALT).encode(history), SALT, "demo", DetectorSettings(seed=seed))
    day = [one for one in made if one.at_ms >= border]
    thief = next(decode_event(one.event) for one in day if one.label.event_label)
    replay = HistoryReplay(model, EngineSettings())
    source = FileSource(io.BytesIO(b"\n".join(one.event for one in day) + b"\n"))
    decisions = [
        decision
        for applied in replay.applied_batches(source, lambda *_: pytest.fail("malformed"))
        for decision in applied.decisions
        if decision.agent.agent_id == thief.agent.id and decision.level > max(decision.previous_level, RiskLevel.LOW)
    ]
    assert thief.client is not None and thief.client.ip and thief.client.user_agent
    assert decisions
    for decision in decisions:
        first = decision.reasons[0]
        assert (first.feature, first.observed) == ("network_surprise", f"AS{thief.client.asn}"), decision.reasons
        assert thief.client.ip in first.text and thief.client.user_agent in first.text
        told = {(one.kind, one.value): one.status for one in decision.indicators}
        assert told[("network", f"AS{thief.client.asn}")] == "new"
        assert told[("address", thief.client.ip)] == told[("software", thief.client.user_agent)] == "with_new"
        assert told[("session", thief.session)] == "with_new" and "new" not in {
            status for (kind, _), status in told.items() if kind in ("credential", "key")
        }, "the credential is the agent's own"


def _visited(make: Any, seed: int, count: int) -> list[dict[str, Any]]:
    """A stream in which agents are called from other networks and with other keys now and then."""
    events = make.stream(seed, count, agents=6, odd=0.15)
    for number, event in enumerate(events):
        if number % 17 == 0:
            event["client"] = {
                "asn": 65000 + number % 23,
                "ip": f"203.0.113.{number % 250}",
                "user_agent": "curl/8.9.1",
            }
        if number % 41 == 0:
            event["credential"] = {"method": "private_key_jwt", "thumbprint": f"other-{number % 3}"}
    return list(events)


def test_what_is_kept_does_not_depend_on_batches(kit: Any, make: Any) -> None:
    """Decisions, and what is told of each agent in the end, are the same one by one and in large batches."""
    records = kit.records(_visited(make, 33, 900))
    found = []
    for length in (1, 37, 900):
        processor, decided, at = kit.processor(capacity=100), [], 0
        for batch in kit.batches(records, itertools.repeat(length)):
            applied = processor.apply(batch._replace(base_offset=at))
            at += len(batch.records)
            decided += [(one.agent.agent_id, one.level, one.reasons) for one in applied.decisions]
        engine = processor.engine
        kept = {
            name.agent_id: (engine.agent_states.explanation(slot), engine.risk[slot].tobytes())
            for slot, name in enumerate(engine.agents.names)
            if name is not None
        }
        found.append((decided, kept))
    assert found[0] == found[1] == found[2]
    texts = [reason.text for _, _, reasons in found[0][0] for reason in reasons if reason.feature == "network_surprise"]
    assert any(PRIOR_REASON_MARKER in text for text in texts) and all("with curl/8.9.1" in text for text in texts)


def test_callers_are_the_first_ones_and_few(kit: Any, make: Any) -> None:
    """Somebody who changes networks in each event costs no explanation in each."""
    processor, explained = kit.processor(capacity=100), []
    explainer = processor.engine.explainer
    reasons = explainer.reasons
    explainer.reasons = lambda scored, rows, **more: (explained.extend(rows), reasons(scored, rows, **more))[1]
    at_ms = make.START_MS + 10**9
    events = [
        make.event(n, 2, at_ms + n * 1000, client={"asn": 65000 + n, "ip": "203.0.113.9"}, session="s")
        for n in range(300)
    ]
    for batch in kit.batches(kit.records(events), itertools.repeat(1)):
        processor.apply(batch)
    (slot,) = (slot for slot, name in enumerate(processor.engine.agents.names) if name is not None)
    kept = decode_reasons(processor.engine.agent_states.explanation(slot).reasons)
    networks = [reason.observed for reason in kept if reason.feature == "network_surprise"]
    assert 1 <= len(networks) <= MAX_CALLER_REASONS and networks[0].startswith("AS65")
    assert len(explained) < 60


def test_a_calm_agent_begins_anew(kit: Any, make: Any) -> None:
    """What was odd before the agent was quiet is no reason of a later rise."""
    processor, at_ms = kit.processor(capacity=100), make.START_MS + 10**9
    quiet = [make.event(n, 2, at_ms + n * 600_000, session=f"q-{n}") for n in range(300)]
    quiet[3]["client"] = {"asn": 65007, "ip": "203.0.113.9"}
    told = processor.engine.risk["told"]
    begun, *rest = kit.batches(kit.records(quiet), itertools.chain([4], itertools.repeat(50)))
    processor.apply(begun)
    assert told.max() > 0.0
    for batch in rest:
        processor.apply(batch)
    assert told.max() == 0.0


def test_a_weaker_event_adds_who_called_alone() -> None:
    """With its own time and part of the evidence; what is known already is not said twice."""

    def reason(feature: str, observed: str) -> RiskReason:
        return RiskReason(feature, feature, observed, "", 0.6, f"{feature} {observed}")

    kept = [reason("action_surprise", "wipe")]
    event = [reason("network_surprise", "AS65007"), reason("target_surprise", "elsewhere")]
    told = with_callers(kept, 3.0, event, 1.0, 1_764_930_645_000)
    assert [one.observed for one in told] == ["AS65007", "wipe"]
    assert told[0].text.endswith("; earlier, at 2025-12-05 10:30:45 UTC") and told[0].contribution == 0.15
    assert with_callers(told, 3.0, event, 1.0, 1_764_930_645_000) == told
