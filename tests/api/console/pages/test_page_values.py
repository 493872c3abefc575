"""Values that console pages show, made from records without a service."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustwatch.api.console.pages.alerts_page import (
    display_bytes,
    filter_dead_letters,
    group_dead_letters,
)
from trustwatch.api.console.pages.decisions_page import (
    feature_rows,
    read_evidence,
)
from trustwatch.api.console.pages.feedback_page import draft_from_form, feature_choices
from trustwatch.api.decisions.service import actuations_of_decision
from trustwatch.api.http.store_executor import read_filtered_page
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, encode_desired_state
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.database import Page

AGENT = AgentName(7, "acme", "https://as.example", "clerk")
REASONS = (
    RiskReason(
        "action_surprise", "action_surprise", "wire_transfer", "12 known actions", 3.0, "first use of wire_transfer"
    ),
    RiskReason("use_after_revocation", "", "a token", "none", 1.0, "used a token that was revoked"),
)


def decision(**changed: Any) -> Decision:
    made = Decision(
        "d1",
        AGENT,
        "Clerk",
        2_000,
        "e1",
        1_000,
        int(RiskLevel.LOW),
        int(RiskLevel.HIGH),
        0.8,
        0.9,
        0.97,
        0.0005,
        REASONS,
        "low had the action been usual",
        {"action_surprise": 32.0, "pace_1m": 5.0, "gone": 1.0},
        {
            "statistic": 9.0,
            "prior": 1.0,
            "gain": 8.0,
            "events": 40,
            "signals": ["use_after_revocation"],
            "thresholds": {"medium": 5.0, "high": 8.0, "critical": 11.0},
        },
        "m1",
        "b1",
        PolicyBook().version,
        "enforce",
        "event",
        0,
        5,
    )
    return msgspec.structs.replace(made, **changed)


def letter(number: int, source: str, reason: str, replayed_ms: int = 0) -> DeadLetter:
    return DeadLetter(f"l{number}", 1_000 + number, source, reason, "$", b"x", 0, number, replayed_ms)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_the_table_has_words(feature: Any) -> None:
    ((_, _, _, meaning, percent),) = feature_rows({feature.name: feature.high})

    assert percent == 100
    assert meaning == feature.meaning


@pytest.mark.parametrize("evidence", [{}, {"thresholds": 3, "statistic": "x", "signals": None}, {"statistic": True}])
def test_evidence_of_any_shape_is_shown(evidence: dict[str, Any]) -> None:
    shown = read_evidence(evidence)

    assert (shown["statistic"], shown["thresholds"], shown["signals"]) == (None, [], [])


def test_what_followed_a_decision_is_only_what_still_follows_from_it() -> None:
    def actuation(decision_id: str, raw: bytes | None = None) -> Actuation:
        wish = DesiredState("acme", "i", "clerk", 7, "high", True, 60, False, False, decision_id, 0, 0)
        kept = encode_desired_state(wish) if raw is None else raw
        return Actuation("hydra", AGENT, 1, kept, b"", "confirmed", 0, 0, 0, 0, "")

    found = actuations_of_decision([actuation("d1"), actuation("d2"), actuation("", b"{")], "d1")

    assert len(found) == 1


def test_letters_are_grouped_by_source_and_reason() -> None:
    """The largest group first; those that were sent in again no longer wait."""
    letters = [letter(1, "gw", "no agent"), letter(2, "gw", "no agent", 5), letter(3, "kc", "not JSON")]

    groups = group_dead_letters(letters)

    assert [(one.source, one.reason, one.letters, one.waiting) for one in groups] == [
        ("gw", "no agent", 2, 1),
        ("kc", "not JSON", 1, 1),
    ]
    assert [one.letter_id for one in filter_dead_letters(letters, "kc", "")] == ["l3"]
    assert len(filter_dead_letters(letters, "", "no agent")) == 2


def test_text_is_shown_as_text_without_tricks() -> None:
    shown = display_bytes('{"agent": "cl\u202eerk", "n": "caf\u00e9 and a long harmless text"}\n'.encode())

    assert shown.kind == "text"
    assert shown.lines[0] == '{"agent": "cl\ufffderk", "n": "caf\u00e9 and a long harmless text"}'


def numbers(cursor: str | None) -> Page[int]:
    """Pages of ten of the numbers up to a thousand."""
    start = int(cursor or 0)
    return Page(list(range(start, start + 10)), str(start + 10) if start + 10 < 1_000 else None)


def test_a_list_is_narrowed_without_losing_or_repeating_anything() -> None:
    found: list[int] = []
    cursor: str | None = None
    while True:
        part = read_filtered_page(numbers, lambda n: n % 7 == 0, cursor, least_items=5, most_pages=4)
        found += part.items
        cursor = part.next_cursor
        if cursor is None:
            break

    assert found == list(range(0, 1_000, 7))


def form(**members: str) -> dict[str, str]:
    usual = {"verdict": "false_positive", "kind": "agent", "which": "named", "reason": "planned"}
    return {**usual, "expires_in_s": "86400", **members}


def test_a_form_says_exactly_what_the_desk_is_asked() -> None:
    """Ticked features in the order of the table; a resource without blanks; nothing means any."""
    ticked = {"feature.pace_1m": "on", "feature.action_surprise": "on", "feature.nonsense": "on"}

    draft = draft_from_form(form(resource="  acct-9 ", **ticked))

    assert (draft.verdict, draft.kind, draft.features, draft.resource) == (
        "false_positive",
        "agent",
        ("pace_1m", "action_surprise"),
        "acct-9",
    )
    assert (draft.reason, draft.expires_in_s, draft.preview_id) == ("planned", 86_400, None)


def test_nothing_ticked_is_nothing_and_not_everything() -> None:
    """A form whose boxes are all empty must not become a rule for all features: the desk refuses it."""
    assert draft_from_form(form()).features == ()
    assert draft_from_form(form(which="all")).features is None


def test_choices_leave_hard_signals_out_and_put_what_led_first() -> None:
    found = feature_choices((decision(),))

    assert [one.name for one in found if one.leading] == ["action_surprise"]
    assert found[0].leading
    assert not {one.name for one in found} & set(PROTECTED_FEATURES)
    assert len({one.label for one in found}) == len(found), "two features are called the same"
