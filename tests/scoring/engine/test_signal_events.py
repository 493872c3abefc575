"""Signal events: what others say of an agent moves its risk, and is no behaviour of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features import layout
from trustwatch.ingest.formats.received_signals import CAEP, build_signal_event, find_signal_rule, read_signal_subjects
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.records.agents import RiskLevel

from ...support.format_samples import one

Story = list[dict[str, Any]]


@pytest.fixture
def scored(kit: Any, make: Any) -> Any:
    """Scores a story of one agent, an event a minute; returns the engine and the batch."""

    def score(story: Story) -> tuple[Engine, Any]:
        events = [make.event(n, 2, make.START_MS + n * 60_000, **dict(part)) for n, part in enumerate(story)]
        engine = Engine(kit.model, EngineSettings(capacity=10))
        return engine, engine.score(kit.columns(events))

    return score


CALM: Story = [{} for _ in range(10)]


def signal(kind: str, action: str = "workload-compromised", **more: Any) -> dict[str, Any]:
    """A signal event, as the receiver writes it: without any of the agent's own things."""
    return {"type": f"signal.{kind}", "action": action, "resource": None, "client": None, "credential": None, **more}


def test_a_reported_compromise_is_critical_at_once(scored: Any) -> None:
    """One such report is enough, also of an agent that nobody has seen; the reason names what was reported."""
    for before in (CALM, []):
        engine, batch = scored([*before, signal("hard")])
        assert batch.levels[-1, 1] == RiskLevel.CRITICAL
        assert batch.evidence[-1] == 20.0
        (reason,) = engine.explainer.reasons(batch, [len(before)])[0]
        assert (reason.code, reason.observed) == ("reported_compromise", "workload-compromised")
        assert engine.explainer.decision_evidence(0, batch, len(before))["signals"] == ["reported_compromise"]


@pytest.mark.parametrize("kind", ["note", "change"])
def test_what_is_no_sign_moves_no_risk(scored: Any, kind: str) -> None:
    """A note and a change-point bring no evidence and leave score and level as they are."""
    _, batch = scored([*CALM, signal(kind)])
    assert batch.evidence[-1] == 0.0
    assert batch.levels[-1].tolist() == [RiskLevel.LOW, RiskLevel.LOW]
    assert batch.risk_scores[-1] <= batch.risk_scores[-2]


@pytest.mark.parametrize("kind", ["note", "evidence"])
def test_signal_events_are_no_behaviour(scored: Any, kind: str) -> None:
    """Nothing of them is counted or learned: what is known of the agent stays bit for bit what it was."""
    engine, _ = scored(CALM)
    after, _ = scored([*CALM, signal(kind)])
    slot = after.builder.slots.find(engine.builder.slots.keys[:1])
    assert (after.builder.pack(slot) == engine.builder.pack(np.zeros(1, np.int32))).all()
    assert after.risk["events"][slot] == engine.risk["events"][0]


def test_a_change_point_halves_what_was_learned_once_a_day(scored: Any) -> None:
    """Of two on one day the second changes nothing; one that no token vouches for never does."""
    engine, _ = scored(CALM)
    known = engine.builder.state.numbers[0, layout.N_SEEN]
    once, _ = scored([*CALM, signal("change")])
    twice, _ = scored([*CALM, signal("change"), signal("change")])
    asserted, _ = scored([*CALM, signal("change", agent_self_asserted=True)])
    assert once.builder.state.numbers[0, layout.N_SEEN] == known / 2
    assert (once.builder.state.numbers == twice.builder.state.numbers).all()
    assert asserted.builder.state.numbers[0, layout.N_SEEN] == known


def test_the_use_of_a_token_that_a_session_revoked_names(scored: Any) -> None:
    """From the SET to the rule, as the gateway's own line tells the use: both name the token in the same way."""
    url, issuer = CAEP + "session-revoked", "https://as.example"
    bot = {"format": "iss_sub", "iss": issuer, "sub": "bot"}
    sub_id = {"format": "complex", "application": bot, "token": {"format": "jwt_id", "iss": issuer, "jti": "t1"}}
    claims = {"iss": issuer, "iat": 1, "jti": "j1", "sub_id": sub_id, "events": {url: {}}}
    rule = find_signal_rule(url, {})
    assert rule is not None
    (subject,) = read_signal_subjects(sub_id)
    told = build_signal_event(claims, rule, subject, "evidence", "urn:s", 2.0)
    line = {"start_time": "2025-11-24T15:59:00Z", "method": "GET", "response_code": 200, "jwt.client_id": "bot"}
    uses = [one("envoy", line | {"jwt.jti": name})["credential"] for name in ("t1", "t2")]
    for credential, fires in zip(uses, (True, False), strict=True):
        use = {"credential": {"method": "private_key_jwt", "thumbprint": "key-agent-2", **credential}}
        _, batch = scored([*CALM, use, signal("note", credential=told["credential"]), use])
        assert (batch.signals[-1].sum() >= 20.0) == fires


def test_a_token_that_a_signal_names_is_revoked(scored: Any) -> None:
    """Its later use fires the rule on revoked tokens, unless anybody could have said so."""

    def use(token: str) -> dict[str, Any]:
        return {"credential": {"method": "private_key_jwt", "thumbprint": "key-agent-2", "token_id": token}}

    revoked = signal("note", "session-revoked", credential={"token_id": "t1"})
    for said, later, fires in (
        (revoked, use("t1"), True),
        (revoked, use("t2"), False),
        (revoked | {"agent_self_asserted": True}, use("t1"), False),
    ):
        _, batch = scored([*CALM, use("t1"), said, later])
        assert (batch.signals[-1].sum() >= 20.0) == fires
