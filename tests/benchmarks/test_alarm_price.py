"""What noticing attacks would cost: evidence of attacks beside that of honest days."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks.alarm_price import (
    PRICES,
    AttackEvidence,
    EvidenceOfDays,
    pool_evidence,
    tables_of_evidence,
)
from trustwatch.ingest.features.feature_table import FEATURE_NAMES

TELLING = FEATURE_NAMES.index("external_target")
DAYS = 1000


def features(value: float) -> np.ndarray:
    """Values of all features: each as usual, but for one."""
    found = np.ones(len(FEATURE_NAMES), np.float32)
    found[TELLING] = value
    return found


def attack(nats: float, *, p_value: float = 0.012, asked: float = 5.0, noticed: bool = False) -> AttackEvidence:
    return AttackEvidence("burst", noticed, (p_value, 0.5), nats, asked, features(9.0))


def honest_days(attacks: list[AttackEvidence]) -> EvidenceOfDays:
    """A thousand days: their evidence is 0 to .999 of what medium asks for, each has one event, p is .001 to 1."""
    steps = np.arange(DAYS) / DAYS
    of_days = np.stack([features(0.0)] * DAYS)
    of_days[:5, TELLING] = 9.5
    return EvidenceOfDays(attacks, steps + 1.0 / DAYS, steps, steps + 1.0 / DAYS, of_days)


def test_a_price_is_the_share_of_honest_days_above_the_threshold() -> None:
    """Ten days have .99 or more of the evidence, twenty .98: an attack of .985 costs more than ten and no twenty."""
    _, prices = tables_of_evidence(honest_days([attack(0.985 * 5.0), attack(0.65 * 5.0)]), ["burst"])

    by = {row[1]: dict(zip(map(str, PRICES), row[2:], strict=True)) for row in prices.rows}
    assert prices.columns[2:] == tuple(map(str, PRICES))
    assert [by["evidence"][price] for price in ("10", "20", "200", "400")] == ["0 of 2", "1 of 2", "1 of 2", "2 of 2"]
    assert by["p of one event"]["10"] == "0 of 2" and by["p of one event"]["20"] == "2 of 2"
    assert by["`external_target`"]["10"] == "2 of 2"


def test_missed_attacks_stand_beside_honest_days_and_events() -> None:
    """Those that were noticed are left out; evidence counts as a part of what its agent's medium asks for."""
    missed, _ = tables_of_evidence(
        honest_days([attack(2.0, p_value=0.1), attack(3.0, asked=6.0, p_value=0.2), attack(9.0, noticed=True)]),
        ["burst"],
    )

    assert missed.rows == [
        (
            "burst",
            "2",
            "0.1500 (0.1000–0.2000)",
            "0.5000 (0.5000–0.5000)",
            "2.5 (2.0–3.0)",
            "5.5 (5.0–6.0)",
            "150.0 (100.0–200.0)",
            "550 (500–600)",
        )
    ]


def test_pooled_evidence_is_that_of_all_enterprises() -> None:
    one, other = honest_days([attack(1.0)]), honest_days([attack(2.0)])

    pooled = pool_evidence([one, other])

    assert [found.nats for found in pooled.attacks] == [1.0, 2.0]
    assert pooled.share.shape == pooled.least_p.shape == (2 * DAYS,)
    assert pooled.features.shape == (2 * DAYS, len(FEATURE_NAMES))
    assert pooled.share.mean() == pytest.approx(one.share.mean())
