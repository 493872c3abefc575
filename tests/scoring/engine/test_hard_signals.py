"""Hard signals: each fires on what its meaning says, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.hard_signals import HARD_SIGNALS, OF_MEDIUM, hard_signal_codes
from trustwatch.scoring.engine.settings import RiskEvaluationSettings


def token(name: str, **more: Any) -> dict[str, Any]:
    return {"credential": {"method": "private_key_jwt", "thumbprint": "key-agent-2", "token_id": name}, **more}


CALM: list[dict[str, Any]] = [{} for _ in range(5)]
REGISTERED = {"method": "private_key_jwt", "thumbprint": "another"}

CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "use_after_revocation": (
        [*CALM, token("t1"), token("t1", type="token.revoke"), token("t1")],
        [*CALM, token("t1"), token("t1", type="token.revoke"), token("t2")],
    ),
    "refused_revoked_token": (
        [*CALM, token("t1", type="token.revoke"), token("t1", outcome="denied")],
        [*CALM, token("t1", type="token.revoke"), token("t1")],
    ),
    "token_on_two_networks": (
        [*[token("t1") for _ in range(100)], token("t1", client={"asn": 65001})],
        [*[token("t1") for _ in range(100)], token("t2", client={"asn": 65001})],
    ),
    "outside_capabilities": (
        [*CALM, {"agent_capabilities": ["write"]}],
        [*CALM, {"agent_capabilities": ["read"]}],
    ),
    "unregistered_key": (
        [*CALM, {"credential": REGISTERED}],
        [*CALM, {"credential": REGISTERED, "type": "client.change"}],
    ),
    "method_downgrade": (
        [*CALM, {"credential": {"method": "none", "thumbprint": "key-agent-2"}}],
        [*CALM, {"credential": {"method": "tls_client_auth", "thumbprint": "key-agent-2"}}],
    ),
    "deep_delegation": (
        [*CALM, {"delegation": [f"a{n}" for n in range(6)]}],
        [*CALM, {"delegation": [f"a{n}" for n in range(5)]}],
    ),
    "reported_compromise": (
        [*CALM, {"type": "signal.hard", "action": "workload-compromised"}],
        [*CALM, {"type": "signal.note", "action": "workload-compromised"}],
    ),
    "failed_proof": (
        [*CALM, {"type": "signal.proof", "action": "proof-of-another-key"}],
        [*CALM, {"type": "signal.note", "action": "proof-expired"}],
    ),
    "reported_evidence": (
        [*CALM, {"type": "signal.evidence", "action": "session-revoked"}],
        [*CALM, {"type": "signal.change", "action": "workload-baseline-changed"}],
    ),
}


@pytest.fixture
def fired(kit: Any, make: Any) -> Callable[..., tuple[set[str], float]]:
    """Signals of the last event of a story, and the evidence they brought."""

    def tell(story: list[dict[str, Any]], disabled: tuple[str, ...] = ()) -> tuple[set[str], float]:
        events = [make.event(n, 2, make.START_MS + n * 60_000, **dict(part)) for n, part in enumerate(story)]
        engine = Engine(kit.model, EngineSettings(RiskEvaluationSettings(disabled_signals=disabled), capacity=10))
        scored = engine.score(kit.columns(events))
        last = len(story) - 1
        found = engine.signal_rules.fired_signals(scored.columns, last, scored.vectors, scored.observations)
        return {signal.code for signal in found}, float(scored.signals[last, :OF_MEDIUM].sum())

    return tell


@pytest.mark.parametrize("code", hard_signal_codes())
def test_signal_fires_on_its_meaning_alone(fired: Any, code: str) -> None:
    """The rule fires with its weight on the case, and not on its neighbour."""
    guilty, innocent = CASES[code]
    codes, evidence = fired(guilty)
    assert code in codes
    assert evidence == sum(signal.weight for signal in HARD_SIGNALS if signal.code in codes)
    assert code not in fired(innocent)[0]


@pytest.mark.parametrize("code", hard_signal_codes())
def test_signal_can_be_switched_off(fired: Any, code: str) -> None:
    """A disabled rule neither fires nor brings evidence."""
    guilty, _ = CASES[code]
    codes, evidence = fired(guilty)
    left, less = fired(guilty, (code,))
    assert left == codes - {code}
    assert less == evidence - next(signal.weight for signal in HARD_SIGNALS if signal.code == code)


def test_our_own_denial_fires_nothing(fired: Any) -> None:
    """What we denied is no behaviour, whatever it asked for."""
    denied = {"outcome": "denied", "error": "ext_authz_denied", "agent_capabilities": []}
    assert fired([*CALM, denied]) == (set(), 0.0)
