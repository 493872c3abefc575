"""Malicious calls that wait before they are made: which are counted, and what the table says of them."""

from __future__ import annotations

import numpy as np
import pytest
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.scoring.engine.announced_paths import as_parts
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.engine.settings import ChallengeBudget
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.simulator.attack_scenarios import SCENARIOS

from benchmarks.attacks.additional_scenarios import ADDITIONAL_SCENARIOS
from benchmarks.attacks.asked_attacks import (
    ALL,
    AskedAttack,
    AskedEnterprise,
    ask_about_enterprise,
    hold_by_level,
    table_of_asked,
)
from benchmarks.attacks.attacked_enterprise import AttackedEnterprise, EnterpriseSize, clean_history, domains
from benchmarks.detection.call_verdicts import as_questions


def attack(waits: str, reads: str = "", by_model: str = "", name: str = "burst") -> AskedAttack:
    """An attack of one call a letter: `x` is set, `-` is not."""
    flags = (np.array([letter == "x" for letter in text or "-" * len(waits)]) for text in (waits, by_model, reads))
    return AskedAttack(name, *flags)


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
    assert table.rows[0][1:] == ("1 of 2", "2 of 2", "1 of 2", "1 of 1", "1", "2")
    assert table.rows[1][1:] == ("0 of 1", "0 of 1", "0 of 1", "0 of 1", "4", "4")
    assert table.rows[2][1:3] == ("1 of 3", "2 of 3")
    assert "Of 2,000 honest calls" in table.note and "5.0 of 1,000 wait" in table.note
    assert "0.5 of 1,000 by their" in table.note


@pytest.fixture(scope="module")
def world() -> AttackedEnterprise:
    return clean_history(EnterpriseSize(40, 4, 2, 1, 40.0), 5)


def test_agents_are_untouched_until_their_attack_begins(world: AttackedEnterprise) -> None:
    untouched = world.untouched_rows

    assert untouched[world.unattacked_rows].all() and not untouched[world.attack >= 0].any()
    for agent in np.unique(world.agent[world.attack >= 0]).tolist():
        own = world.agent == agent
        begun = np.flatnonzero(own & (world.attack >= 0))[0]
        assert untouched[own].tolist() == (np.flatnonzero(own) < begun).tolist()


def test_each_call_is_asked_about_as_the_service_would_be(world: AttackedEnterprise) -> None:
    """One by one, at the level and with the announced keys of that moment."""
    asked = ask_about_enterprise(world)
    names = [attack.name for attack in asked.attacks]
    scorer = CallScorer(world.model, ChallengeBudget(), domains())
    questions = list(as_questions(world.events))
    calls = np.array([question.type in ("tool.call", "api.call", "a2a.message") for question in questions])

    assert set(names) <= set(SCENARIOS) | set(ADDITIONAL_SCENARIOS) and len(names) > 10
    assert int(asked.honest.sum()) == int((world.untouched_rows & calls).sum())
    found = asked.attacks[names.index("exfiltration")]
    number = [plan.scenario.name for plan in world.plans].index("exfiltration")
    own = np.flatnonzero(world.malicious_rows & (world.attack == number) & calls)
    assert len(own) == len(found.waits)
    levels = world.trail["level"][own]
    trusted = as_parts(world.trail["announced"][own]) & (levels < RiskLevel.MEDIUM)[:, None]
    by_model = [
        scorer.score_many([questions[row]], parts[None, :])[0].exceeds
        for row, parts in zip(own.tolist(), trusted, strict=True)
    ]
    assert found.by_model.tolist() == by_model
    held = hold_by_level([questions[row] for row in own.tolist()], levels)
    assert found.waits.tolist() == (np.array(by_model) | held).tolist()
    assert found.reads.tolist() == [questions[row].effect == "read" for row in own.tolist()]
