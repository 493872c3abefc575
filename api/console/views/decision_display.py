"""A decision for people: why it was made, how far the evidence went, what was measured, what followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trustwatch.ingest.features.feature_declaration import UNIT_WORDS, Feature
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision, RiskReason

from .indicator_display import DisplayedIndicators, display_indicators

_FEATURES: Mapping[str, Feature] = {feature.name: feature for feature in FEATURES}
_CAUSES = {
    "event": "an event",
    "tick": "time alone: no event, the risk decayed",
    "release": "a person vouched for the agent",
}


class DisplayedReason(NamedTuple):
    """One reason; *percent* of what all reasons shown contribute."""

    code: str
    label: str
    text: str
    observed: str
    usual: str
    contribution: float
    percent: int


class DisplayedFeature(NamedTuple):
    """One value of the feature vector; *percent* of the feature's range."""

    name: str
    label: str
    family: str
    value: float
    unit: str
    meaning: str
    percent: int


class DisplayedThreshold(NamedTuple):
    """Evidence at which a level begins, and whether it was reached."""

    level: str
    at: float
    reached: bool


class DisplayedConcern(NamedTuple):
    """A concern: its name, what it means, and how odd the event is in that way, in words."""

    name: str
    meaning: str
    odds: str


class DisplayedEvidence(NamedTuple):
    """Evidence of the risk kernel, natural logs; None where the decision keeps no such figure.

    Attributes:
        statistic: evidence after the event.
        prior: before it.
        gain: what the event added.
        events: of the agent, so far.
        signals: hard signals that fired.
        suppressed: what was odd in the event and brought no evidence, as it had counted before, in words.
        concerns: ways in which the event is odd, the oddest first.
        thresholds: by rising level.
    """

    statistic: float | None
    prior: float | None
    gain: float | None
    events: int | None
    signals: tuple[str, ...]
    thresholds: tuple[DisplayedThreshold, ...]
    suppressed: tuple[str, ...] = ()
    concerns: tuple[DisplayedConcern, ...] = ()


class DisplayedPolicy(NamedTuple):
    """Token policy of the level; *current* is false where the policy has changed since the decision."""

    policy: LevelTokenPolicy
    rule: str
    mode: str
    version: str
    current: bool


class DisplayedDecision(NamedTuple):
    """A decision with everything that its page shows."""

    decision: Decision
    level: str
    previous: str
    rises: bool
    cause: str
    odds: str
    reasons: tuple[DisplayedReason, ...]
    features: tuple[DisplayedFeature, ...]
    evidence: DisplayedEvidence
    policy: DisplayedPolicy
    indicators: DisplayedIndicators


def display_decision(decision: Decision, book: PolicyBook) -> DisplayedDecision:
    """*decision* as its page shows it; *book* is the policy in force now."""
    return DisplayedDecision(
        decision,
        RiskLevel(decision.level).label,
        RiskLevel(decision.previous_level).label,
        decision.level > decision.previous_level,
        _CAUSES.get(decision.cause, decision.cause),
        describe_odds(decision.p_value) if decision.cause == "event" else "",
        display_reasons(decision.reasons),
        display_features(decision.feature_vector),
        display_evidence(decision.evidence),
        _display_policy(decision, book),
        display_indicators(decision.indicators),
    )


def describe_odds(p_value: float) -> str:
    """A p-value in words.

    >>> describe_odds(0.0001)
    'about 1 in 10,000 normal events looks at least this odd'
    """
    if not 0.0 < p_value <= 1.0:
        return ""
    return f"about 1 in {max(1, round(1.0 / p_value)):,} normal events looks at least this odd"


def display_reasons(reasons: Sequence[RiskReason]) -> tuple[DisplayedReason, ...]:
    """Reasons in their order, each with its share of them all."""
    total = sum(max(reason.contribution, 0.0) for reason in reasons)
    return tuple(
        DisplayedReason(
            reason.code,
            _feature_label(reason.feature),
            reason.text,
            reason.observed,
            reason.usual,
            reason.contribution,
            round(100.0 * max(reason.contribution, 0.0) / total) if total > 0 else 0,
        )
        for reason in reasons
    )


def display_features(vector: Mapping[str, float]) -> tuple[DisplayedFeature, ...]:
    """The vector, the highest of its range first. A feature that the table no longer has keeps its name and value."""
    shown = [_display_feature(name, value) for name, value in vector.items()]
    return tuple(sorted(shown, key=lambda feature: (-feature.percent, feature.name)))


def _display_feature(name: str, value: float) -> DisplayedFeature:
    definition = _FEATURES.get(name)
    if definition is None:
        return DisplayedFeature(name, name, "", value, "", "of another version of the feature table", 0)
    percent = round(100.0 * (value - definition.low) / (definition.high - definition.low))
    unit = UNIT_WORDS[definition.unit]
    return DisplayedFeature(
        name, definition.noun, definition.family, value, unit, definition.meaning, min(max(percent, 0), 100)
    )


_CONCERNS = {
    "compromise": "it acts for somebody else",
    "malfunction": "it works badly",
    "overreach": "it does more, or may do more, than it used to",
}


def display_evidence(evidence: Mapping[str, Any]) -> DisplayedEvidence:
    """Evidence that a decision keeps of the risk kernel, whichever version wrote it."""
    statistic = _number_or_none(evidence.get("statistic"))
    limits = evidence.get("thresholds")
    given = limits if isinstance(limits, Mapping) else {}
    thresholds = [
        DisplayedThreshold(level.label, at, statistic is not None and statistic >= at)
        for level in RiskLevel
        if (at := _number_or_none(given.get(level.label))) is not None
    ]
    events = _number_or_none(evidence.get("events"))
    return DisplayedEvidence(
        statistic,
        _number_or_none(evidence.get("prior")),
        _number_or_none(evidence.get("gain")),
        None if events is None else int(events),
        _text_tuple(evidence.get("signals")),
        tuple(thresholds),
        tuple(dict.fromkeys(_feature_label(name) for name in _text_tuple(evidence.get("left_aside")))),
        _display_concerns(evidence.get("concerns")),
    )


def _display_concerns(p_values: Any) -> tuple[DisplayedConcern, ...]:
    """Concerns of a decision, those that this version knows; decisions of before have none."""
    given = p_values if isinstance(p_values, Mapping) else {}
    named_p_values = [
        (p_value, name) for name in _CONCERNS if (p_value := _number_or_none(given.get(name))) is not None
    ]
    return tuple(
        DisplayedConcern(name, _CONCERNS[name], describe_odds(p_value)) for p_value, name in sorted(named_p_values)
    )


def _text_tuple(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _display_policy(decision: Decision, book: PolicyBook) -> DisplayedPolicy:
    agent = decision.agent
    effective_policy = book.effective_policy(*agent.identity, decision.agent_type, decision.concern)
    policy = effective_policy.table[RiskLevel(decision.level)]
    return DisplayedPolicy(
        policy, effective_policy.rule, decision.mode, decision.policy_version, book.version == decision.policy_version
    )


def describe_policy(policy: LevelTokenPolicy) -> list[str]:
    """Describe a token policy in words, a line for each rule; exactly what it holds.

    >>> describe_policy(LevelTokenPolicy(False, 0, (), False, False, True))
    ['no token is issued', 'tokens that are out are revoked']
    """
    if not policy.allow:
        return ["no token is issued", *(["tokens that are out are revoked"] if policy.revoke else [])]
    lines = [f"tokens live at most {policy.max_token_lifetime_s:,} s"]
    if policy.allowed_scopes is not None:
        lines.append(f"only these scopes: {', '.join(policy.allowed_scopes) or 'none'}")
    lines.append("refresh is allowed" if policy.refresh_allowed else "no refresh")
    if policy.step_up:
        scopes = "every scope" if "*" in policy.step_up_scopes else ", ".join(policy.step_up_scopes)
        lines.append(f"a person has to approve {scopes}")
    if policy.revoke:
        lines.append("tokens that are out are revoked")
    return lines


def _feature_label(feature: str) -> str:
    definition = _FEATURES.get(feature)
    return definition.noun if definition is not None else feature.replace("_", " ")


def _number_or_none(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
