"""Values that console pages show, made from records without a service."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.console.pages.alerts_page import (
    display_bytes,
)
from trustwatch.api.console.pages.decisions_page import (
    draft_from_form,
    feature_choices,
    read_evidence,
)
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.records.decisions import Decision, RiskReason

from ....support.console_records import decision_of, row_of

REASONS = (
    RiskReason(
        "action_surprise", "action_surprise", "wire_transfer", "12 known actions", 3.0, "first use of wire_transfer"
    ),
    RiskReason("use_after_revocation", "", "a token", "none", 1.0, "used a token that was revoked"),
)


def decision(**changed: Any) -> Decision:
    vector = {"action_surprise": 32.0, "pace_1m": 5.0, "gone": 1.0}
    return decision_of(row_of("clerk", level=3), 1, feature_vector=vector, reasons=REASONS, **changed)


@pytest.mark.parametrize("evidence", [{}, {"thresholds": 3, "statistic": "x", "signals": None}, {"statistic": True}])
def test_evidence_of_any_shape_is_shown(evidence: dict[str, Any]) -> None:
    shown = read_evidence(evidence)

    assert (shown["statistic"], shown["thresholds"], shown["signals"]) == (None, [], [])


def test_text_is_shown_as_text_without_tricks() -> None:
    shown = display_bytes('{"agent": "cl\u202eerk", "n": "caf\u00e9 and a long harmless text"}\n'.encode())

    assert shown.kind == "text"
    assert shown.lines[0] == '{"agent": "cl\ufffderk", "n": "caf\u00e9 and a long harmless text"}'


def form(**members: str) -> dict[str, str]:
    usual = {"verdict": "false_positive", "kind": "agent", "which": "named", "reason": "planned"}
    return {**usual, "expires_in_s": "86400", **members}


def test_nothing_ticked_is_nothing_and_not_everything() -> None:
    assert draft_from_form(form()).features == ()
    assert draft_from_form(form(which="all")).features is None


def test_choices_leave_hard_signals_out_and_put_what_led_first() -> None:
    found = feature_choices((decision(),))

    assert [one.name for one in found if one.leading] == ["action_surprise"]
    assert found[0].leading
    assert not {one.name for one in found} & set(PROTECTED_FEATURES)
    assert len({one.label for one in found}) == len(found), "two features are called the same"
