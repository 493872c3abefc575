"""What a form says of a decision, and what a preview found, between the page and the feedback desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ....ingest.features.table import FEATURES, NAMES
from ....scoring.feedback import PreviewRow
from ....scoring.feedback.rules import PROTECTED
from ....scoring.records import Decision
from ...feedback import Draft

DAY_S = 86_400
PERIODS = ((DAY_S, "1 day"), (7 * DAY_S, "7 days"), (30 * DAY_S, "30 days"), (90 * DAY_S, "90 days"))
FEATURE = "feature."
"""How a check box of a feature is called; its name follows."""


class Choice(NamedTuple):
    """A feature that a rule may name. *leading* ones moved the decision and are chosen at first."""

    name: str
    label: str
    meaning: str
    leading: bool


def choices(decision: Decision) -> list[Choice]:
    """Features that a rule may name, those of the decision's reasons first; hard signals are none."""
    leading = {reason.feature for reason in decision.reasons}
    found = [
        Choice(one.name, one.noun, one.meaning, one.name in leading) for one in FEATURES if one.name not in PROTECTED
    ]
    return sorted(found, key=lambda one: not one.leading)


def things(decision: Decision) -> list[str]:
    """Resources and targets that the reasons name: what a rule is likely to be about."""
    named = [
        reason.observed for reason in decision.reasons if reason.feature in ("resource_surprise", "target_surprise")
    ]
    return list(dict.fromkeys(named))


def draft_of(form: Mapping[str, str]) -> Draft:
    """What the form asks for, not checked yet: the desk says what is wrong with it."""
    named = tuple(name for name in NAMES if f"{FEATURE}{name}" in form)
    try:
        lasts_s = int(form.get("expires_in_s", "0"))
    except ValueError:
        lasts_s = 0
    return Draft(
        verdict="true_positive" if form.get("verdict") == "true_positive" else "false_positive",
        kind="peer_group" if form.get("kind") == "peer_group" else "agent",
        features=None if form.get("which") == "all" else named, resource=form.get("resource", "").strip() or None,
        reason=form.get("reason", ""), expires_in_s=lasts_s, preview_id=form.get("preview_id") or None,
        accept_unseen=form.get("accept_unseen") == "yes",
    )  # fmt: skip


class PreviewShown(NamedTuple):
    """A preview for people.

    Attributes:
        percent: how far it is.
        found: members of the result as the API names them; empty until it is done.
    """

    preview_id: str
    status: str
    percent: int
    error: str
    found: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ("done", "failed")


def preview_shown(row: PreviewRow) -> PreviewShown:
    """*row* as a page tells it."""
    found = msgspec.json.decode(row.result) if row.result else {}
    return PreviewShown(row.preview_id, row.status, round(100 * row.progress), row.error, found)
