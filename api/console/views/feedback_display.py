"""Values of the feedback form and of previews, between the page and the feedback service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

import msgspec

from trustwatch.ingest.features.feature_declaration import label_of
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.timestamps import DAY_S
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback, FeedbackPreview, FeedbackVerdict

from ...feedback.drafts import FeedbackDraft
from ...http.problems import invalid_value_error

PERIODS = ((DAY_S, "1 day"), (7 * DAY_S, "7 days"), (30 * DAY_S, "30 days"), (90 * DAY_S, "90 days"))
FEATURE_FIELD_PREFIX = "feature."
"""Prefix in the names of the features' check boxes; the feature's name follows."""
_LABELS = {feature.name: label_of(feature) for feature in FEATURES}


class FeatureChoice(NamedTuple):
    """A feature that a rule may name. *leading* ones moved the decision and are chosen at first."""

    name: str
    label: str
    meaning: str
    leading: bool


def feature_choices(rise: Sequence[Decision]) -> list[FeatureChoice]:
    """Features that a rule may name, those of the reasons of a rise first; hard signals are none."""
    leading = {reason.feature for decision in rise for reason in decision.reasons}
    choices = [
        FeatureChoice(feature.name, describe_feature(feature.name), feature.meaning, feature.name in leading)
        for feature in FEATURES
        if feature.name not in PROTECTED_FEATURES
    ]
    return sorted(choices, key=lambda choice: not choice.leading)


def named_resources(rise: Sequence[Decision]) -> list[str]:
    """Resources and targets that the reasons of a rise name: what a rule is likely to be about."""
    named = [
        reason.observed
        for decision in rise
        for reason in decision.reasons
        if reason.feature in ("resource_surprise", "target_surprise")
    ]
    return list(dict.fromkeys(named))


def describe_feature(name: str) -> str:
    """A feature as people call it.

    >>> describe_feature("target_surprise"), describe_feature("pace_4h")
    ('target', 'pace, 4 h')
    """
    return _LABELS.get(name, name)


def describe_scope(feedback: Feedback) -> str:
    """Describe in words which agents and features a rule is about."""
    who = (
        feedback.agent.agent_id
        if feedback.kind == "agent"
        else f"every {feedback.agent_type} of {feedback.agent.tenant}"
    )
    what = "all features" if feedback.features is None else "; ".join(map(describe_feature, feedback.features))
    return f"{who}: {what}" + (f", on {feedback.resource}" if feedback.resource else "")


def draft_from_form(form: Mapping[str, str]) -> FeedbackDraft:
    """Draft that the form asks for, not checked yet: the service says what is wrong with it.

    Raises:
        ProblemError: 422, no verdict was chosen: none is taken for granted.
    """
    verdict = form.get("verdict", "")
    if verdict not in get_args(FeedbackVerdict):
        raise invalid_value_error("verdict", "say what it was: a false or a true positive")
    named = tuple(name for name in FEATURE_NAMES if f"{FEATURE_FIELD_PREFIX}{name}" in form)
    try:
        lasts_s = int(form.get("expires_in_s", "0"))
    except ValueError:
        lasts_s = 0
    return FeedbackDraft(
        verdict=cast(FeedbackVerdict, verdict),
        kind="peer_group" if form.get("kind") == "peer_group" else "agent",
        features=None if form.get("which") == "all" else named,
        resource=form.get("resource", "").strip() or None,
        reason=form.get("reason", ""),
        expires_in_s=lasts_s,
        preview_id=form.get("preview_id") or None,
        accept_unseen=form.get("accept_unseen") == "yes",
    )


class DisplayedPreview(NamedTuple):
    """Values of a preview for its page.

    Attributes:
        percent: how far it is.
        result: members of the result as the API names them; empty until it is done.
    """

    preview_id: str
    status: str
    percent: int
    error: str
    result: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """True if the preview has ended and nothing more comes."""
        return self.status in ("done", "failed")

    @property
    def marked(self) -> dict[str, Any] | None:
        """The alert that is spoken of, where the rule would have changed it."""
        return next((alert for alert in self.result.get("alerts_removed", ()) if alert["marked"]), None)

    @property
    def lowered(self) -> int:
        """Alerts among those listed that would still have been ones, of a lower level."""
        return sum(alert["level_with_rule"] in ("medium", "high") for alert in self.result.get("alerts_removed", ()))

    @property
    def still_odd(self) -> list[tuple[str, int]]:
        """Features that make events odd which the rule touches, in words, with how many; hard signals are said so."""
        return [
            (
                describe_feature(anomaly["feature"])
                + (", which no rule may name" if anomaly["feature"] in PROTECTED_FEATURES else ""),
                anomaly["events"],
            )
            for anomaly in self.result.get("still_odd", ())
        ]


def display_preview(row: FeedbackPreview) -> DisplayedPreview:
    """*row* as its page shows it."""
    result = msgspec.json.decode(row.result) if row.result else {}
    return DisplayedPreview(row.preview_id, row.status, round(100 * row.progress), row.error, result)
