"""Price of noticing attacks: how many honest agent-days have at least as much evidence as they brought.

Whoever notices an attack by a score alarms on every honest day that has as much of it, whichever threshold it takes and
however that was chosen. So does who looks at a single feature; the best one is chosen by the labels of each kind of
attack, which no operator has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.engine.risk_levels import COMPROMISE, MALFUNCTION, model_thresholds
from trustwatch.scoring.engine.settings import AlertBudget

from ..detection.report import FigureTable
from .attacked_enterprise import AttackedEnterprise

PRICES = (10, 20, 30, 50, 100, 200, 400)
"""Honest agent-days of 1,000 on which there is an alarm."""

Floats = NDArray[np.float64]
Values = NDArray[np.float32]


class AttackEvidence(NamedTuple):
    """Evidence that one attack brought.

    Attributes:
        name: of its scenario.
        noticed: an agent of it rose to *medium*.
        p_values: smallest of its malicious events for compromise and malfunction, as evidence rests on them.
        nats: most evidence behind one of its malicious events, natural log, of the concern that came nearest.
        asked: what *medium* asks of that agent and concern.
        features: (F,), largest values of its malicious events that do more than read; None where all read.
    """

    name: str
    noticed: bool
    p_values: tuple[float, float]
    nats: float
    asked: float
    features: Values | None

    @property
    def p_value(self) -> float:
        """The smaller of both p-values."""
        return min(self.p_values)

    @property
    def share(self) -> float:
        """Evidence as a part of what *medium* asks for."""
        return self.nats / self.asked


class EvidenceOfDays(NamedTuple):
    """Evidence of attacks, and of days of agents that no attack had touched yet.

    Attributes:
        attacks: those with a malicious event.
        p_values: (n,), as `AttackEvidence.p_value`, of the events of those days.
        share: (d,), as `AttackEvidence.share`, the most of each day.
        least_p: (d,), the smallest of each day.
        features: (d, F), largest values of the day's events that do more than read; 0 where there are none.
    """

    attacks: list[AttackEvidence]
    p_values: Floats
    share: Floats
    least_p: Floats
    features: Values


class _Event(msgspec.Struct):
    effect: str = ""


def gather_evidence(world: AttackedEnterprise, noticed: Sequence[bool]) -> EvidenceOfDays:
    """Evidence of the attacks and honest days of an enterprise.

    Args:
        world: under attack.
        noticed: of each attack with a malicious event, in the order of the plans.
    """
    trail = world.trail
    limits = model_thresholds(world.model, AlertBudget())[trail["group"], :, 0]
    shares = trail["statistics"] / limits
    p_values = trail["concern_p"][:, [COMPROMISE, MALFUNCTION]]
    decode = msgspec.json.Decoder(_Event).decode
    acts = np.array([decode(event).effect not in ("", "read") for event in world.events])
    attacks: list[AttackEvidence] = []
    malicious = (np.flatnonzero(world.malicious_rows & (world.attack == at)) for at in range(len(world.plans)))
    for own, plan in zip(malicious, world.plans, strict=True):
        if len(own):
            row, concern = np.unravel_index(int(shares[own].argmax()), shares[own].shape)
            evidence = float(trail["statistics"][own[row], concern]), float(limits[own[row], concern])
            values = trail["vectors"][own[acts[own]]]
            features = values.max(axis=0) if len(values) else None
            compromise, malfunction = p_values[own].min(axis=0).tolist()
            name, is_noticed = plan.scenario.name, noticed[len(attacks)]
            attacks.append(AttackEvidence(name, is_noticed, (compromise, malfunction), *evidence, features))
    return _beside_honest_days(world, attacks, shares.max(axis=1), p_values.min(axis=1), acts)


def _beside_honest_days(
    world: AttackedEnterprise,
    attacks: list[AttackEvidence],
    shares: Floats,
    p_values: Floats,
    acts: NDArray[np.bool_],
) -> EvidenceOfDays:
    """The attacks beside honest days, for shares, smallest p-values and flags of events (n,) that do more than read."""
    trail = world.trail
    honest = np.flatnonzero(world.untouched_rows)
    days, day_of = np.unique(world.agent[honest] * 100_000 + trail["time_ms"][honest] // DAY_MS, return_inverse=True)
    share = np.zeros(len(days))
    np.maximum.at(share, day_of, shares[honest])
    least_p = np.ones(len(days))
    np.minimum.at(least_p, day_of, p_values[honest])
    of_days = np.zeros((len(days), len(FEATURE_NAMES)), np.float32)
    np.maximum.at(of_days, day_of[acts[honest]], trail["vectors"][honest[acts[honest]]])
    return EvidenceOfDays(attacks, p_values[honest], share, least_p, of_days)


def pool_evidence(parts: Sequence[EvidenceOfDays]) -> EvidenceOfDays:
    """Evidence of several enterprises as that of one."""
    return EvidenceOfDays(
        [attack for part in parts for attack in part.attacks],
        np.concatenate([part.p_values for part in parts]),
        np.concatenate([part.share for part in parts]),
        np.concatenate([part.least_p for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def tables_of_evidence(evidence: EvidenceOfDays, names: Sequence[str]) -> list[FigureTable]:
    """What missed attacks of some kinds brought, and what it would cost to notice them."""
    return [_missed(evidence, names), _prices(evidence, names)]


def _missed(evidence: EvidenceOfDays, names: Sequence[str]) -> FigureTable:
    rows = []
    for name in names:
        missed = [attack for attack in evidence.attacks if attack.name == name and not attack.noticed]
        as_odd = [1000.0 * float((evidence.p_values <= attack.p_value).mean()) for attack in missed]
        as_much = [1000.0 * float((evidence.share >= attack.share).mean()) for attack in missed]
        rows.append(
            (
                name,
                str(len(missed)),
                *(_spread([attack.p_values[at] for attack in missed], ".4f") for at in range(2)),
                _spread([attack.nats for attack in missed], ".1f"),
                _spread([attack.asked for attack in missed], ".1f"),
                _spread(as_odd, ".1f"),
                _spread(as_much, ".0f"),
            )
        )
    columns = (
        "attack",
        "missed",
        "smallest p of compromise",
        "of malfunction",
        "evidence",
        "*medium* asks for",
        "honest events as odd, of 1,000",
        "honest agent-days with as much, of 1,000",
    )
    note = (
        "Medians, least and most. Evidence, a natural logarithm, is the most behind a malicious event; as odd is by "
        f"the smaller p. Honest are {len(evidence.p_values):,} events of {len(evidence.share):,} days of agents "
        "that no attack has touched yet, in the same days."
    )
    return FigureTable("Attacks that levels miss", columns, rows, note)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    return f"{np.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _prices(evidence: EvidenceOfDays, names: Sequence[str]) -> FigureTable:
    rows = []
    for name in names:
        attacks = [attack for attack in evidence.attacks if attack.name == name]
        rows.append((name, "evidence", *_noticed_at([attack.share for attack in attacks], evidence.share)))
        rows.append((name, "p of one event", *_noticed_at([-attack.p_value for attack in attacks], -evidence.least_p)))
        writing = [attack.features for attack in attacks if attack.features is not None]
        if writing:
            best = best_feature(writing, evidence.features)
            at_best = _noticed_at([features[best] for features in writing], evidence.features[:, best])
            rows.append((name, f"`{FEATURE_NAMES[best]}`", *at_best))
    note = (
        "Attacks above a threshold that so many honest agent-days of 1,000 exceed: on the most evidence of a day, as a "
        "part of what *medium* asks for; on the smallest p of an event; and on that single feature of calls that do "
        "more than read which tells this kind of attack best, chosen by the labels."
    )
    return FigureTable("What noticing costs", ("attack", "by", *map(str, PRICES)), rows, note)


def best_feature(attacks: Sequence[Values], honest: Values) -> int:
    """Feature by which the attacks, (F,) each, are least like honest days (d, F), in the middle of them."""
    as_high = np.array([(honest >= values).mean(axis=0) for values in attacks])
    return int(np.argmin(np.median(as_high, axis=0)))


def _noticed_at(attacks: Sequence[float], honest: NDArray[np.floating]) -> list[str]:
    """Attacks above the lowest threshold that no more honest days exceed than each price says."""
    ordered = np.sort(honest)[::-1]
    limits = [float(ordered[int(len(ordered) * price / 1000)]) for price in PRICES]
    return [f"{sum(value > limit for value in attacks)} of {len(attacks)}" for limit in limits]
