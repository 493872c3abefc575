"""What console pages show: values made of records, without a service."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trustwatch.api.console.views.decisions import decision_shown, evidence_shown, features_shown, follows, odds
from trustwatch.api.console.views.deliveries import alerts_shown
from trustwatch.api.console.views.letters import chosen, letter_groups
from trustwatch.api.console.views.raw import raw_shown
from trustwatch.api.console.views.scanning import narrowed
from trustwatch.ingest.features.table import FEATURES
from trustwatch.scoring.actuators.desired import Desired, encode_desired
from trustwatch.scoring.containment import Actuation
from trustwatch.scoring.notify import alert_payload
from trustwatch.scoring.policy import PolicyBook
from trustwatch.scoring.records import AgentName, DeadLetter, Decision, Delivery, Reason, RiskLevel
from trustwatch.scoring.store import Page, StoredLetter

AGENT = AgentName(7, "acme", "https://as.example", "clerk")
REASONS = (
    Reason(
        "action_surprise", "action_surprise", "wire_transfer", "12 known actions", 3.0, "first use of wire_transfer"
    ),
    Reason("use_after_revocation", "", "a token", "none", 1.0, "used a token that was revoked"),
)


def decision(**changed: Any) -> Decision:
    made = Decision(
        "d1", AGENT, "Clerk", 2_000, "e1", 1_000, int(RiskLevel.LOW), int(RiskLevel.HIGH), 0.8, 0.9, 0.97, 0.0005,
        REASONS, "low had the action been usual", {"action_surprise": 32.0, "pace_1m": 5.0, "gone": 1.0},
        {"statistic": 9.0, "prior": 1.0, "gain": 8.0, "events": 40, "signals": ["use_after_revocation"],
         "thresholds": {"medium": 5.0, "high": 8.0, "critical": 11.0}},
        "m1", "b1", PolicyBook().version, "enforce", "event", 0, 5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def delivery(target: str, status: str, **changed: Any) -> Delivery:
    payload = alert_payload(decision(), {"allow": True}, "https://trust.example")
    made = Delivery(
        "alert-d1", target, "alert", "acme", 7, int(RiskLevel.HIGH), "action_surprise", 2_000, status, 1, 0, "", 0, 0,
        payload,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def letter(number: int, source: str, reason: str, replayed_ms: int = 0) -> StoredLetter:
    return StoredLetter(DeadLetter(f"l{number}", 1_000 + number, source, reason, "$", b"x", 0, number), replayed_ms)


def test_a_decision_is_told_with_its_shares_thresholds_and_policy() -> None:
    """Reasons share 100 %, the threshold that was reached is told from those that were not, policy is the level's."""
    shown = decision_shown(decision(), PolicyBook())

    assert [one.percent for one in shown.reasons] == [75, 25]
    assert shown.reasons[0].label == "action"
    assert [(one.level, one.reached) for one in shown.evidence.thresholds] == [
        ("medium", True), ("high", True), ("critical", False),
    ]  # fmt: skip
    assert (shown.level, shown.previous, shown.rises) == ("high", "low", True)
    assert shown.policy.current
    assert shown.policy.policy.max_token_lifetime_s == 60
    assert shown.odds == "about 1 in 2,000 normal events looks at least this odd"


def test_a_policy_that_changed_since_is_said_to_have_changed() -> None:
    """What is shown of another version than the one in force is not passed off as what held."""
    assert not decision_shown(decision(policy_version="other"), PolicyBook()).policy.current


def test_time_alone_has_no_odds() -> None:
    """A decision that no event caused keeps a p-value that means nothing."""
    shown = decision_shown(decision(cause="tick", event_id="", p_value=1.0), PolicyBook())

    assert shown.odds == ""
    assert "time alone" in shown.cause


def test_features_come_strongest_first_with_unit_and_meaning() -> None:
    """Values are compared on their own range; one that the table no longer knows is last, with its value."""
    shown = features_shown(decision().feature_vector)

    assert [one.name for one in shown] == ["action_surprise", "pace_1m", "gone"]
    assert (shown[0].unit, shown[0].percent) == ("bits of surprise", 50)
    assert shown[2].value == 1.0


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_the_table_has_words(feature: Any) -> None:
    """No feature is shown by its bare name alone."""
    (one,) = features_shown({feature.name: feature.high})

    assert one.percent == 100
    assert one.meaning == feature.meaning


@pytest.mark.parametrize("evidence", [{}, {"thresholds": 3, "statistic": "x", "signals": None}, {"statistic": True}])
def test_evidence_of_any_shape_is_shown(evidence: dict[str, Any]) -> None:
    """A record of another version breaks no page."""
    shown = evidence_shown(evidence)

    assert (shown.statistic, shown.thresholds, shown.signals) == (None, (), ())


def test_odds_of_nonsense_are_not_told() -> None:
    """A p-value outside (0, 1] says nothing."""
    assert [odds(p) for p in (0.0, -1.0, 2.0)] == ["", "", ""]


def test_what_followed_a_decision_is_only_what_still_follows_from_it() -> None:
    """An actuation that a later decision has replaced is not shown; one that can not be read neither."""

    def actuation(decision_id: str, raw: bytes | None = None) -> Actuation:
        wish = Desired("acme", "i", "clerk", 7, "high", True, 60, False, False, decision_id, 0, 0)
        kept = encode_desired(wish) if raw is None else raw
        return Actuation("hydra", AGENT, 1, kept, b"", "confirmed", 0, 0, 0, 0, "")

    found = follows([actuation("d1"), actuation("d2"), actuation("", b"{")], "d1")

    assert len(found) == 1


def test_an_alert_is_one_thing_with_a_state_at_each_target() -> None:
    """Deliveries of one key are put together; the alert is as well as its worst target."""
    failed = delivery("pager", "failed", last_error="410 Gone", attempts=3)
    (alert,) = alerts_shown([delivery("soc", "delivered", delivered_ms=9), failed])

    assert (alert.decision_id, alert.level, alert.worst) == ("d1", "high", "failed")
    assert alert.title == "Risk high (was low): clerk"
    assert [(one.target, one.status, one.why) for one in alert.targets] == [
        ("soc", "delivered", ""), ("pager", "failed", "410 Gone"),
    ]  # fmt: skip


def test_an_attempt_that_comes_is_told_from_one_that_was() -> None:
    """`next_ms` is only told while there is a next attempt."""
    waits = delivery("soc", "pending", attempts=0, next_attempt_ms=5)
    over = delivery("soc", "dead", attempts=9, next_attempt_ms=5)

    shown = [alerts_shown([one])[0].targets[0] for one in (waits, over)]

    assert [one.next_ms for one in shown] == [5, 0]
    assert shown[0].words == "waits for its first attempt"


def test_a_payload_that_is_no_alert_is_still_shown() -> None:
    """An actuator's row, or bytes that nobody can read."""
    action = delivery("hydra", "delivered", kind="action", payload=b'{"agent_id": "clerk"}', key="action-d1")
    broken = delivery("x", "dead", payload=b"\xff", key="k")

    first, second = alerts_shown([action, broken])

    assert (first.title, first.subject) == ("Token policy of high", "clerk")
    assert second.title == "Alert of high"


def test_letters_are_grouped_by_source_and_reason() -> None:
    """The largest group first; those that were sent in again no longer wait."""
    letters = [letter(1, "gw", "no agent"), letter(2, "gw", "no agent", 5), letter(3, "kc", "not JSON")]

    groups = letter_groups(letters)

    assert [(one.source, one.reason, one.letters, one.waiting) for one in groups] == [
        ("gw", "no agent", 2, 1), ("kc", "not JSON", 1, 1),
    ]  # fmt: skip
    assert [one.letter.letter_id for one in chosen(letters, "kc", "")] == ["l3"]
    assert len(chosen(letters, "", "no agent")) == 2


def test_text_is_shown_as_text_without_tricks() -> None:
    """Control characters and marks of direction neither hide nor reorder what is read."""
    shown = raw_shown('{"agent": "cl\u202eerk", "n": "caf\u00e9 and a long harmless text"}\n'.encode())

    assert shown.kind == "text"
    assert shown.lines[0] == '{"agent": "cl\ufffderk", "n": "caf\u00e9 and a long harmless text"}'


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"\x00" * 40, bytes(range(256))])
def test_what_is_no_text_is_a_hex_dump(raw: bytes) -> None:
    """Every byte is there."""
    shown = raw_shown(raw)

    assert shown.kind == "hex"
    assert sum(len(line[10:58].split()) for line in shown.lines) == len(raw)


def test_a_long_record_says_what_is_left_out() -> None:
    """A character that the limit cuts in two does not turn text into bytes."""
    shown = raw_shown(("x" * 9 + "é").encode(), most=10)

    assert (shown.kind, shown.lines, shown.size, shown.omitted) == ("text", ("x" * 9,), 11, 1)


def test_nothing_is_shown_as_nothing() -> None:
    """An empty record is a record."""
    assert raw_shown(b"") == ("text", ("",), 0, 0)


def numbers(cursor: str | None) -> Page[int]:
    """Pages of ten of the numbers up to a thousand."""
    start = int(cursor or 0)
    return Page(list(range(start, start + 10)), str(start + 10) if start + 10 < 1_000 else None)


def test_a_list_is_narrowed_without_losing_or_repeating_anything() -> None:
    """Going on from the cursor finds every item exactly once."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        part = narrowed(numbers, lambda n: n % 7 == 0, cursor, wanted=5, most_pages=4)
        found += part.items
        cursor = part.next_cursor
        if cursor is None:
            break

    assert found == list(range(0, 1_000, 7))


def test_a_look_for_what_is_not_there_ends() -> None:
    """It reads so many pages, says how many items these were, and where it would go on."""
    assert narrowed(numbers, lambda n: False, most_pages=3) == ([], "30", 30)
