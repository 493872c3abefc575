"""Challenged calls of a back-test against the challenge budget, as they are told."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.events import EFFECTS
from trustwatch.ingest.timestamps import format_rfc3339_seconds
from trustwatch.models.call_challenges import EVERY_EFFECT

from ..engine.settings import ChallengeBudget, accepted_challenges
from .challenge_counts import ChallengeCounts

CONFIDENCE = 0.95
MAX_LISTED_KINDS = 100
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class EffectChallenges(msgspec.Struct, frozen=True):
    """Calls of one effect, or of all (`all`).

    Attributes:
        budget: calls of 1,000 that may wait; None for all effects, which have no budget together.
        calls, challenged: counted.
        per_1000: challenged of 1,000; None = there were no calls.
        within: where the share lies in 95 of 100 histories like this one, calls of a session taken together.
        threshold: score that is exceeded by what waits, of tenants that have none of their own; None = none can be
            promised, so nothing of theirs waits.
        threshold_of: effect of the held-out calls that the threshold was read from.
        budget_kept: True where all of *within* is inside the budget, False where none is; None = too few calls to tell.
    """

    effect: str
    budget: float | None
    calls: int
    challenged: int
    per_1000: float | None
    within: tuple[float, float] | None
    threshold: float | None
    threshold_of: str | None
    budget_kept: bool | None

    @property
    def budget_words(self) -> str:
        """Words for what the bounds say of the budget."""
        if self.threshold is None and not self.challenged:
            return "no threshold: nothing may wait, or the model's history is too short for this budget"
        if self.budget_kept is None:
            return "too few calls to tell"
        return "kept" if self.budget_kept else "broken"


class ChallengedCallKind(msgspec.Struct, frozen=True):
    """Challenged calls of one kind; *reasons* are codes by how many of the calls had them."""

    tenant: str
    agent_type: str
    action: str
    effect: str
    calls: int
    agents: int
    reasons: dict[str, int]
    first_at: str
    first_event_id: str
    first_reason: str


class CallChallengeReport(msgspec.Struct, frozen=True):
    """Calls that a person would have been asked about.

    Attributes:
        missing_because: why nothing was asked; None = it was.
        honest_only: whether labels left bad sessions, and events without label, out of all but *kinds*.
        effects: those that occur, and `all` at the end.
        sessions, sessions_challenged: events without a session count as one by agent and day.
        agents, agents_challenged: who asked, and who was challenged at least once.
        left_with_trust: of the challenged calls, those that would have waited if a person had trusted each new access
            path with its first call.
        kinds: the most frequent first, cut at `MAX_LISTED_KINDS`.
        kinds_challenged: how many there are.
        tenants_with_own_thresholds: how many tenants of the model's history have thresholds of their own, which their
            calls are compared with.
    """

    missing_because: str | None
    honest_only: bool
    effects: list[EffectChallenges]
    sessions: int
    sessions_challenged: int
    agents: int
    agents_challenged: int
    left_with_trust: int
    kinds: list[ChallengedCallKind]
    kinds_challenged: int
    tenants_with_own_thresholds: int

    @property
    def threshold_words(self) -> str:
        """Words for whose thresholds the calls were compared with; "" = one of all."""
        own = self.tenants_with_own_thresholds
        if not own:
            return ""
        have = "1 tenant of the model's history has" if own == 1 else f"{own:,} tenants of the model's history have"
        return f"{have} thresholds of {'its' if own == 1 else 'their'} own; all others have those of all together"


def challenge_report(counts: ChallengeCounts, budget: ChallengeBudget, *, honest_only: bool) -> CallChallengeReport:
    """Report of *counts* beside a budget."""
    units = counts.units
    asked, challenged = units["asked"], units["challenged"]
    effects = [
        _effect_row(name, accepted_challenges(budget, name), asked[:, code], challenged[:, code], counts)
        for code, name in enumerate(EFFECTS)
        if asked[:, code].any()
    ]
    if effects:
        effects.append(_effect_row(EVERY_EFFECT, None, asked.sum(axis=1), challenged.sum(axis=1), counts))
    waits = challenged.any(axis=1)
    kinds = _kinds(counts)
    return CallChallengeReport(
        counts.missing_because or None,
        honest_only,
        effects,
        len(units),
        int(waits.sum()),
        len(np.unique(units["agent"])),
        len(np.unique(units["agent"][waits])),
        int(units["left"].sum()),
        kinds[:MAX_LISTED_KINDS],
        len(kinds),
        counts.tenants_with_own,
    )


def _effect_row(
    name: str,
    budget: float | None,
    asked: npt.NDArray[np.int32],
    challenged: npt.NDArray[np.int32],
    counts: ChallengeCounts,
) -> EffectChallenges:
    calls, waiting = int(asked.sum()), int(challenged.sum())
    threshold = counts.thresholds.get(name)
    bounds = clustered_share_bounds(asked, challenged)
    within = None if bounds is None else (1000.0 * bounds[0], 1000.0 * bounds[1])
    return EffectChallenges(
        name,
        budget,
        calls,
        waiting,
        1000.0 * waiting / calls if calls else None,
        within,
        None if threshold is None else threshold.anomaly_score,
        None if threshold is None else threshold.effect,
        _budget_kept(within, budget),
    )


def _budget_kept(within: tuple[float, float] | None, budget: float | None) -> bool | None:
    if budget is None or within is None:
        return None
    if within[1] <= budget:
        return True
    return False if within[0] > budget else None


def clustered_share_bounds(
    asked: npt.NDArray[np.int32], challenged: npt.NDArray[np.int32]
) -> tuple[float, float] | None:
    """Bounds of a share of calls that depend on each other within units; None where there are no calls.

    Wilson's interval over as many calls as would tell as much if they were independent (Kish's design effect from the
    spread between units, never below 1).
    """
    total = int(asked.sum())
    if not total:
        return None
    share = float(challenged.sum() / total)
    spread = float(((challenged - share * asked) ** 2).sum())
    alone = total * share * (1.0 - share)
    n = total / max(1.0, spread / alone if alone > 0.0 else 1.0)
    middle, reach = share + _Z**2 / (2 * n), _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    whole = 1.0 + _Z**2 / n
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def _kinds(counts: ChallengeCounts) -> list[ChallengedCallKind]:
    ordered = sorted(counts.kinds.items(), key=lambda item: (-item[1].calls, item[0]))
    return [
        ChallengedCallKind(
            *kind,
            challenged.calls,
            len(challenged.agents),
            dict(sorted(challenged.reasons.items(), key=lambda item: (-item[1], item[0]))),
            "" if challenged.example is None else format_rfc3339_seconds(challenged.example[0]),
            "" if challenged.example is None else challenged.example[1],
            "" if challenged.example is None else challenged.example[2],
        )
        for kind, challenged in ordered
    ]
