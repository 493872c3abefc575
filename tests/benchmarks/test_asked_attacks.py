"""Malicious calls that wait before they are made: which are counted, and what the table says of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks.asked_attacks import (
    ALL,
    AskedAttack,
    AskedEnterprise,
    hold_by_level,
    table_of_asked,
)
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.scoring.records.agents import RiskLevel


def attack(waits: str, reads: str = "", by_model: str = "", name: str = "burst") -> AskedAttack:
    """An attack of one call a letter: `x` is set, `-` is not."""
    flags = (np.array([letter == "x" for letter in text or "-" * len(waits)]) for text in (waits, by_model, reads))
    return AskedAttack(name, *flags, 0.0125)


def call(effect: str | None) -> NativeEvent:
    told = "" if effect is None else f'"effect":"{effect}",'
    return decode_event(
        f'{{"type":"tool.call","time":"2026-03-02T09:00:00Z","action":"do","outcome":"success",{told}"tenant":"t",'
        '"agent":{"id":"a","issuer":"i","type":"helper"}}'.encode()
    )


@pytest.mark.parametrize(("waits", "made"), [("--x-x", 2), ("x--", 0), ("---", 3)])
def test_calls_before_the_first_that_waits_are_made(waits: str, made: int) -> None:
    assert attack(waits).made == made


@pytest.mark.parametrize(
    ("waits", "reads", "stays"),
    [("--x", "xx-", True), ("-x-", "xx-", True), ("--x", "x--", False), ("---", "xx-", False), ("x--", "xxx", None)],
)
def test_an_attack_stays_reading_if_a_call_waits_at_its_first_write_or_before(
    waits: str, reads: str, stays: bool | None
) -> None:
    assert attack(waits, reads).stays_reading is stays


@pytest.mark.parametrize(
    ("level", "held"),
    [
        (RiskLevel.UNKNOWN, [False, False, False]),
        (RiskLevel.LOW, [False, False, False]),
        (RiskLevel.MEDIUM, [False, True, True]),
        (RiskLevel.HIGH, [True, True, True]),
        (RiskLevel.CRITICAL, [True, True, True]),
    ],
)
def test_levels_hold_what_the_default_policy_says(level: RiskLevel, held: list[bool]) -> None:
    """At medium what does more than read, or does not say; above everything."""
    calls = [call("read"), call("write"), call(None)]

    assert hold_by_level(calls, np.full(3, level, np.int8)).tolist() == held


def test_the_table_counts_attacks_and_honest_calls() -> None:
    none = np.zeros(2, np.int32)
    asked = [
        AskedEnterprise([attack("x-", "x-", "x-"), attack("--x", "xxx")], np.array([900, 600]), np.array([9, 0]), none),
        AskedEnterprise([attack("----", name="flood")], np.array([500, 0]), np.array([1, 0]), np.array([1, 0])),
    ]

    table = table_of_asked(asked, ["burst", "flood", "slow_ramp"])

    assert [row[0] for row in table.rows] == ["burst", "flood", ALL]
    assert table.rows[0][1:] == ("1 of 2", "2 of 2", "1 of 2", "1 of 1", "1", "2", "12.5")
    assert table.rows[1][1:] == ("0 of 1", "0 of 1", "0 of 1", "0 of 1", "4", "4", "12.5")
    assert table.rows[2][1:3] == ("1 of 3", "2 of 3")
    assert "Of 2,000 honest calls" in table.note and "5.0 of 1,000 wait" in table.note
    assert "together), 0.5 by their agent's level" in table.note
