"""Values that console pages show, made from records without a service."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustwatch.api.console.pages.alerts_page import (
    delivery_words,
    display_bytes,
    filter_dead_letters,
    group_alerts,
    group_dead_letters,
)
from trustwatch.api.console.pages.decisions_page import (
    describe_odds,
    feature_noun,
    feature_rows,
    read_evidence,
    reason_shares,
)
from trustwatch.api.console.pages.feedback_page import draft_from_form, feature_choices, preview_values
from trustwatch.api.console.pages.models_page import (
    budget_chart,
    budget_totals,
    calibration_chart,
    days_beyond_budget,
    group_labels,
    largest_drifts,
    select_curves,
)
from trustwatch.api.decisions.service import actuations_of_decision, escalation_to
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.http.store_executor import read_filtered_page
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, encode_desired_state
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_payload
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.learning.budget_chart import BudgetDay, CalibrationCurve, CalibrationPoint, upper_control_limit
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.commits import Delivery
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.records.feedback import FeedbackPreview
from trustwatch.scoring.records.models import PeerGroupDay
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


def delivery(target: str, status: str, **changed: Any) -> Delivery:
    payload = build_alert_payload(decision(), {"allow": True}, "https://trust.example")
    made = Delivery(
        "alert-d1",
        target,
        "alert",
        "acme",
        7,
        int(RiskLevel.HIGH),
        "action_surprise",
        2_000,
        status,
        1,
        0,
        "",
        0,
        0,
        payload,
    )
    return msgspec.structs.replace(made, **changed)


def letter(number: int, source: str, reason: str, replayed_ms: int = 0) -> DeadLetter:
    return DeadLetter(f"l{number}", 1_000 + number, source, reason, "$", b"x", 0, number, replayed_ms)


def test_a_decision_is_told_with_its_shares_and_thresholds() -> None:
    assert reason_shares(REASONS) == [75, 25]
    assert feature_noun(REASONS[0].feature) == "action"
    assert read_evidence(decision().evidence)["thresholds"] == [
        ("medium", 5.0, True),
        ("high", 8.0, True),
        ("critical", 11.0, False),
    ]
    assert describe_odds(decision().p_value) == "about 1 in 2,000 normal events looks at least this anomalous"


def test_features_come_strongest_first_with_unit_and_meaning() -> None:
    shown = feature_rows(decision().feature_vector)

    assert [name for name, *_ in shown] == ["action_surprise", "pace_1m", "gone"]
    assert (shown[0][2], shown[0][4]) == ("surprise", 50)
    assert shown[2][1] == 1.0


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_the_table_has_words(feature: Any) -> None:
    ((_, _, _, meaning, percent),) = feature_rows({feature.name: feature.high})

    assert percent == 100
    assert meaning == feature.meaning


@pytest.mark.parametrize("evidence", [{}, {"thresholds": 3, "statistic": "x", "signals": None}, {"statistic": True}])
def test_evidence_of_any_shape_is_shown(evidence: dict[str, Any]) -> None:
    shown = read_evidence(evidence)

    assert (shown["statistic"], shown["thresholds"], shown["signals"]) == (None, [], [])


def test_odds_of_nonsense_are_not_told() -> None:
    assert [describe_odds(p) for p in (0.0, -1.0, 2.0)] == ["", "", ""]


def test_what_followed_a_decision_is_only_what_still_follows_from_it() -> None:
    def actuation(decision_id: str, raw: bytes | None = None) -> Actuation:
        wish = DesiredState("acme", "i", "clerk", 7, "high", True, 60, False, False, decision_id, 0, 0)
        kept = encode_desired_state(wish) if raw is None else raw
        return Actuation("hydra", AGENT, 1, kept, b"", "confirmed", 0, 0, 0, 0, "")

    found = actuations_of_decision([actuation("d1"), actuation("d2"), actuation("", b"{")], "d1")

    assert len(found) == 1


def test_an_alert_is_one_thing_with_a_state_at_each_target() -> None:
    failed = delivery("pager", "failed", last_error="410 Gone", attempts=3)
    (alert,) = group_alerts([delivery("soc", "delivered", delivered_ms=9), failed])

    assert (alert.decision_id, alert.first.level) == ("d1", RiskLevel.HIGH)
    assert alert.content.title == "Risk high (was low): clerk"
    assert [(one.target, delivery_words(one)) for one in alert.deliveries] == [
        ("soc", "arrived"),
        ("pager", "refused for good"),
    ]
    assert alert.step is not None and (alert.step.before, alert.step.after) == (RiskLevel.LOW, RiskLevel.HIGH)


def test_an_attempt_that_comes_is_told_from_one_that_was() -> None:
    waits = delivery("soc", "pending", attempts=0, next_attempt_ms=5)
    over = delivery("soc", "dead", attempts=9, next_attempt_ms=5)

    assert [delivery_words(one) for one in (waits, over)] == ["waits for its first attempt", "given up"]


def test_a_payload_that_is_no_alert_is_still_shown() -> None:
    action = delivery("hydra", "delivered", kind="action", payload=b'{"agent_id": "clerk"}', key="action-d1")
    broken = delivery("x", "dead", payload=b"\xff", key="k")

    first, second = group_alerts([action, broken])

    assert (first.content.title, first.content.subject) == ("Token policy of high", "clerk")
    assert second.content.title == "Alert of high"
    assert (first.decision_id, first.step) == ("", None)


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


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"\x00" * 40, bytes(range(256))])
def test_what_is_no_text_is_a_hex_dump(raw: bytes) -> None:
    shown = display_bytes(raw)

    assert shown.kind == "hex"
    assert sum(len(line[10:58].split()) for line in shown.lines) == len(raw)


def test_a_long_record_says_what_is_left_out() -> None:
    """A character that the limit cuts in two does not turn text into bytes."""
    shown = display_bytes(("x" * 9 + "é").encode(), most=10)

    assert (shown.kind, shown.lines, shown.size, shown.omitted) == ("text", ("x" * 9,), 11, 1)


def test_nothing_is_shown_as_nothing() -> None:
    assert display_bytes(b"") == ("text", ("",), 0, 0)


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


def test_a_look_for_what_is_not_there_ends() -> None:
    """It reads so many pages, says how many items these were, and where it would go on."""
    assert read_filtered_page(numbers, lambda n: False, most_pages=3) == ([], "30", 30)


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


def test_a_broken_form_asks_for_no_time() -> None:
    assert draft_from_form(form(expires_in_s="soon")).expires_in_s == 0
    with pytest.raises(ProblemError, match="must be a false or a true positive"):
        draft_from_form({})


def test_a_decision_tells_its_concerns_the_oddest_first() -> None:
    odd = {"malfunction": 0.5, "compromise": 0.001, "of_tomorrow": 0.1, "overreach": "x"}
    assert read_evidence({"concerns": odd})["concerns"] == [
        ("compromise", "another party controls it", "about 1 in 1,000 normal events looks at least this anomalous"),
        ("malfunction", "it malfunctions", "about 1 in 2 normal events looks at least this anomalous"),
    ]
    assert read_evidence(decision().evidence)["concerns"] == [] == read_evidence({"concerns": [1]})["concerns"]


def test_a_decision_tells_what_was_left_aside() -> None:
    told = read_evidence({"left_aside": ["target_surprise", "pace_1m", "pace_4h", "of_tomorrow"]})

    assert told["left_aside"] == ["target", "pace", "of tomorrow"]
    assert read_evidence(decision().evidence)["left_aside"] == [] == read_evidence({"left_aside": "x"})["left_aside"]


def test_choices_leave_hard_signals_out_and_put_what_led_first() -> None:
    found = feature_choices((decision(),))

    assert [one.name for one in found if one.leading] == ["action_surprise"]
    assert found[0].leading
    assert not {one.name for one in found} & set(PROTECTED_FEATURES)
    assert len({one.label for one in found}) == len(found), "two features are called the same"


def test_a_rule_begins_with_what_the_whole_rise_names() -> None:
    def step(name: str, level: int, before: int, feature: str = "action_surprise") -> Decision:
        reasons = (RiskReason(feature, feature, "x", "y", 1.0, "z"),)
        return decision(decision_id=name, level=level, previous_level=before, reasons=reasons)

    to_high, fell = step("d3", 3, 2, "resource_surprise"), step("d1", 1, 3, "hour_surprise")
    rise = [step("d4", 4, 3), to_high, step("d2", 2, 1, "target_surprise"), fell, step("d0", 3, 1)]

    found = escalation_to(rise[0], [step("d5", 1, 4), *rise])

    assert [one.decision_id for one in found] == ["d4", "d3", "d2"]
    leading = {one.name for one in feature_choices(found) if one.leading}
    assert leading == {"action_surprise", "resource_surprise", "target_surprise"}
    assert escalation_to(rise[0], []) == (rise[0],)
    assert [one.decision_id for one in escalation_to(to_high, rise)] == ["d3", "d2"]


def day(number: int, observed: int, expected: float, tenant: str = "acme", **changed: Any) -> BudgetDay:
    made = BudgetDay(
        number, tenant, "Clerk", 10, False, expected, observed, 0, 0, observed, 1, observed, 2, False, False
    )
    return made._replace(**changed)


def test_totals_have_the_limit_of_the_sum() -> None:
    (one, two) = budget_totals([day(2, 1, 0.5), day(1, 3, 1.0), day(1, 2, 1.0, "globex")])

    assert (one.day, one.observed, one.expected, one.limit) == (1, 5, 2.0, upper_control_limit(2.0))
    assert (two.day, two.observed) == (2, 1)


def test_only_what_stands_out_is_told_the_newest_first() -> None:
    found = days_beyond_budget([day(1, 9, 0.1, beyond=True), day(2, 1, 0.1), day(3, 2, 0.1, run_beyond=True)])

    assert [row.day for row in found] == [3, 1]


def test_drift_is_that_of_the_last_judged_day_of_each_group() -> None:
    def drift(number: int, judged: bool, value: float, scores: float | None = None) -> PeerGroupDay:
        said = {"judged": judged, "features": {"action_surprise": value}, "scores": scores}
        return PeerGroupDay("m", number, "acme", "Clerk", 900, 9, (0, 0, 0), (), said)

    rows = largest_drifts([drift(1, True, 0.9), drift(2, True, 0.1, 0.3), drift(3, False, 5.0)], 0.25, 0.2)

    assert [(row.day, row.name, row.beyond) for row in rows] == [(2, "scores", True), (2, "action_surprise", False)]


def test_charts_say_in_words_what_they_show_and_tell_lines_apart_without_colour() -> None:
    curve = [CalibrationPoint(0.1, 1.0), CalibrationPoint(0.9, 0.001)]
    curves = [CalibrationCurve(tenant, "Clerk", 100, True, tuple(curve)) for tenant in ("*", "a", "b", "c", "d")]

    shown = select_curves(curves, [], ())
    drawn = str(calibration_chart(shown))

    assert len(shown) == 4
    told = "the table below has its numbers"
    assert f'aria-label="Calibration: from an anomaly score to a p-value; {told}"' in drawn
    assert [f"dash-{kind}" in drawn for kind in "abc"] == [True] * 3
    budget = str(budget_chart(budget_totals([day(1, 1, 0.5)]), "high"))
    assert f'aria-label="Alerts of high or above, by day; {told}"' in budget


def test_curves_of_known_agents_are_drawn_beside_those_of_newcomers() -> None:
    known = [CalibrationCurve(tenant, "Clerk", 100 + at, True, ()) for at, tenant in enumerate(("*", "a", "b"))]
    newcomers = [one for one in known if one.tenant != "a"]

    largest, asked = select_curves(newcomers, known, ()), select_curves(newcomers, known, {"Clerk of a"})

    fleet = ["known agents, the fleet", "newcomers, the fleet"]
    assert [name for name, _ in largest] == [*fleet, "known agents, Clerk of b", "newcomers, Clerk of b"]
    assert [name for name, _ in asked] == [*fleet, "known agents, Clerk of a"]
    assert group_labels(newcomers, known) == ["Clerk of a", "Clerk of b"]


@pytest.mark.parametrize("status", ["waiting", "running", "failed"])
def test_a_preview_without_a_result_is_shown(status: Any) -> None:
    shown = preview_values(FeedbackPreview("p", "d1", "acme", "x", "draft", status, 0.5, 0, 0, "no history", b""))

    assert (shown["percent"], shown["is_over"], shown["result"]) == (50, status == "failed", {})
    assert (shown["marked"], shown["lowered"], shown["still_odd"]) == (None, 0, [])
