"""Drafts of feedback: scope, features and time of a rule, checked before anything is previewed or written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec

from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.timestamps import DAY_S, HOUR_S
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.engine.hard_signals import HARD_SIGNALS, hard_signal_codes
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import FeedbackVerdict, RuleScopeKind

from ..http.problems import ProblemDetails, ProblemError

MAX_RULE_DAYS = 90  # Longest lifetime of a rule: a person reviews it after a quarter
MAX_BROAD_RULE_HOURS = 24
"""Longest time of a rule that names neither features nor a resource: under it everything of an agent is learned."""

_FIRST_SEEN_PREFIX = "first_seen_"


class FeedbackDraft(msgspec.Struct, frozen=True):
    """Feedback as a person asks for it; see `docs/cases.md`."""

    verdict: FeedbackVerdict
    kind: RuleScopeKind = "agent"
    # names of features or codes of reasons; None = all but those of hard signals
    features: tuple[str, ...] | None = None
    resource: str | None = None
    reason: str = ""
    expires_in_s: int = 0  # of a false positive: how long the rule is to hold
    preview_id: str | None = None  # of the preview that was seen
    accept_unseen: bool = False  # adopt although no history exists to preview it on


def draft_refused_error(detail: str, code: str = "feedback_refused", status: int = 422) -> ProblemError:
    """Return the problem of a draft that is refused."""
    return ProblemError(ProblemDetails(status, code, "Feedback refused", detail))


def resolve_feature_names(words: Collection[str]) -> tuple[str, ...]:
    """Names of features for names and codes of reasons. Raises ProblemError for one that is neither, or protected."""
    names = []
    for word in words:
        name = word if word in FEATURE_NAMES else f"{word.removeprefix(_FIRST_SEEN_PREFIX)}_surprise"
        if word in PROTECTED_FEATURES or word in hard_signal_codes():
            raise draft_refused_error(
                f"{word} is a hard signal, which no feedback suppresses; where it is wrong, register the key or the "
                "capabilities, or switch the signal off in `risk.disabled_signals`"
            )
        if name not in FEATURE_NAMES:
            features = ", ".join(name for name in FEATURE_NAMES if name not in PROTECTED_FEATURES)
            raise draft_refused_error(f"{word} is not a feature; the features are {features}")
        names.append(name)
    return tuple(sorted(set(names), key=FEATURE_NAMES.index))


def check_draft(draft: FeedbackDraft, decision: Decision) -> FeedbackDraft:
    """The draft with features in the order of the table. Raises ProblemError if it is refused."""
    if not draft.reason.strip():
        raise draft_refused_error("say why: `reason` is empty")
    if decision.level < RiskLevel.MEDIUM or decision.level <= decision.previous_level:
        raise draft_refused_error(
            f"decision {decision.decision_id} raised no agent to medium or above: feedback is about decisions that did"
        )
    if draft.verdict == "true_positive":
        return msgspec.structs.replace(draft, kind="agent", features=None, resource=None, expires_in_s=0)
    features = None if draft.features is None else resolve_feature_names(draft.features)
    resolved = msgspec.structs.replace(draft, features=features)
    _check_rule(resolved, decision)
    return resolved


def _check_rule(draft: FeedbackDraft, decision: Decision) -> None:
    if draft.features == ():
        raise draft_refused_error("`features` is empty: name at least one, or leave it out for all")
    if draft.resource is not None and not draft.resource.strip():
        raise draft_refused_error("`resource` is empty: name a target or resource id, or leave it out for any")
    broad = draft.features is None and draft.resource is None
    if draft.kind == "peer_group" and not decision.agent_type:
        raise draft_refused_error(
            "the agent of this decision has no type, so it has no peer group: choose the scope `agent`"
        )
    if draft.kind == "peer_group" and broad:
        raise draft_refused_error("a rule for a whole peer group has to name features, a resource, or both")
    if draft.expires_in_s <= 0:
        raise draft_refused_error("a false positive needs an end: `expires_in_s` must be above 0")
    if draft.expires_in_s > MAX_RULE_DAYS * DAY_S:
        raise draft_refused_error(f"no rule holds longer than {MAX_RULE_DAYS} days")
    if broad and draft.expires_in_s > MAX_BROAD_RULE_HOURS * HOUR_S:
        raise draft_refused_error(
            f"a rule that names neither features nor a resource holds at most {MAX_BROAD_RULE_HOURS} hours: "
            "name what was wrong, or choose a shorter time"
        )


def draft_digest(draft: FeedbackDraft, decision_id: str) -> str:
    """Digest that ties a preview to its draft: decision, verdict, scope and time; the reason may still be reworded."""
    parts = (decision_id, draft.verdict, draft.kind, draft.features, draft.resource, draft.expires_in_s)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


_SIGNAL_WEIGHTS = {signal.code: signal.weight for signal in HARD_SIGNALS}


def withdrawable_evidence(decision: Decision) -> float:
    """Evidence that led to a decision, without that of the hard signals of its event: those no feedback takes back."""
    statistic = decision.evidence.get("statistic", 0.0)
    signals = sum(_SIGNAL_WEIGHTS.get(str(code), 0.0) for code in decision.evidence.get("signals", ()))
    return max(0.0, float(statistic) - signals)
