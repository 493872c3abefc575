"""Risk: evidence, thresholds, levels, decay."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.risk_levels import thresholds
from trustwatch.scoring.engine.settings import AlertBudget

from ...support.one_question import QUESTION, SETTINGS, apply_events, for_each_concern, one_question

T0 = 1_764_000_000_000
HOUR, MINUTE = 3_600_000, 60_000
BOUNDS = np.array([[4.0, 6.0, 8.0]])


class One:
    """One agent; each call is one event."""

    def __init__(self, bounds: Any = BOUNDS, settings: risk_levels.RiskParameters = SETTINGS) -> None:
        self.state, self.bounds, self.settings = risk_levels.allocate(1), bounds, settings
        self.levels, self.out = np.zeros((1, 2), np.int8), np.zeros((1, risk.OUTPUTS))

    def event(
        self,
        at_ms: int,
        p: float = 0.5,
        signal: float = 0.0,
        asserted: bool = False,
        skip: bool = False,
        coverage: float = 1.0,
    ) -> tuple[int, int]:
        given: dict[str, Any] = {"signal": signal, "asserted": asserted, "skip": skip, "coverage": coverage}
        p_values, bounds = for_each_concern(np.array([p])), one_question(self.bounds)
        apply_events(
            self.state, np.array([at_ms]), p_values, bounds, self.levels, self.out, settings=self.settings, **given
        )
        return int(self.levels[0, 0]), int(self.levels[0, 1])

    def tick(self, at_ms: int) -> tuple[int, int]:
        zero = np.zeros(1, np.int32)
        risk_levels.advance(
            zero, self.state, one_question(self.bounds), np.zeros(1, np.int64), at_ms, self.settings, self.levels
        )
        return int(self.levels[0, 0]), int(self.levels[0, 1])

    def __getitem__(self, field: str) -> Any:
        value = self.state[0][field]
        return value.item() if value.ndim == 0 else value[QUESTION].item()


def critical() -> One:
    agent = One()
    agent.event(T0, signal=20.0)
    assert agent["level"] == 4
    return agent


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("streak", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("peak", [0.0, 0.7, 4.0])
def test_bets_are_fair(confidence: float, streak: float, peak: float) -> None:
    """The mean of `e(p)` over uniform p is at most 1 at every confidence, streak and peak (exact integral by quantiles
    of p = x**2, under which the integrand is bounded)."""
    x = (np.arange(100_000) + 0.5) / 100_000
    bets = np.array([math.exp(risk.evidence_of(value * value, confidence, streak, peak)) for value in x.tolist()])
    assert float((bets * 2 * x).mean()) <= 1.0 + 1e-9


def test_a_bet_beyond_the_streaks_peak_counts_in_full() -> None:
    """Mildly odd events damp their like; what the event that matters has beyond them is not damped."""
    mild, strong = 0.01, 1e-6
    peak = risk.evidence_of(mild, 1.0, 0.0, 0.0)
    assert risk.evidence_of(mild, 1.0, 10.0, peak) < 0.65 * peak
    beyond = risk.evidence_of(strong, 1.0, 0.0, 0.0) - peak
    assert risk.evidence_of(strong, 1.0, 10.0, peak) == pytest.approx(beyond + risk.evidence_of(mild, 1.0, 10.0, peak))


@pytest.mark.parametrize("per_day", [1, 10, 48])
def test_false_alarms_stay_within_the_budget(per_day: int) -> None:
    """Normal agents with uniform p-values reach each level on no more agent-days than the budget accepts."""
    agents, days, budget = 400, 200 if per_day < 48 else 50, AlertBudget()
    dice = np.random.default_rng(per_day)
    bounds, state = thresholds(np.array([float(per_day)]), budget), risk_levels.allocate(agents)
    slots, levels = np.arange(agents, dtype=np.int32), np.zeros((agents, 2), np.int8)
    raised = np.zeros((agents, days, 5), np.bool_)
    for number in range(per_day * days):
        at = np.full(agents, T0 + number * 86_400_000 // per_day)
        p_values = for_each_concern(1.0 - dice.random(agents))
        apply_events(state, at, p_values, one_question(bounds), levels, slots=slots)
        for level in (2, 3, 4):
            raised[:, number // per_day, level] |= (levels[:, 1] >= level) & (levels[:, 0] < level)
    shares = raised.mean(axis=(0, 1)) * 1000.0
    assert shares[2] <= budget.medium
    assert shares[3] <= budget.high
    assert shares[4] <= budget.critical


@pytest.mark.parametrize("per_hour", [5, 300, 1000])
def test_a_busy_agent_under_attack_is_noticed(per_hour: int) -> None:
    """Normal events, however many an hour, do not damp the evidence of 200 impossible ones."""
    dice, bounds = np.random.default_rng(per_hour), thresholds(np.array([24.0 * per_hour]), AlertBudget())
    quiet = 1.0 - dice.random(3 * per_hour)
    p_values = np.concatenate([quiet, np.full(200, 1e-4)])
    before, attack = np.arange(len(quiet)) * HOUR // per_hour, 3 * HOUR + np.arange(200) * 6_000
    levels = np.zeros((len(p_values), 2), np.int8)
    times = T0 + np.concatenate([before, attack])
    apply_events(risk_levels.allocate(1), times, for_each_concern(p_values), one_question(bounds), levels)
    assert levels[-200:, 1].max() >= 2


def test_thresholds_grow_with_rate_and_shrink_with_budget() -> None:
    """Busier groups and smaller budgets ask for more evidence, levels stay at least 1 apart, and nothing is free."""
    quiet, busy = thresholds(np.array([1.0, 500.0]), AlertBudget())
    assert (busy > quiet).all()
    assert (thresholds(np.array([500.0]), AlertBudget(2.0, 0.5, 0.1)) > busy).all()
    assert (thresholds(np.array([500.0]), AlertBudget(), 0.5) > busy).all()
    generous = thresholds(np.array([1.0]), AlertBudget(1e9, 1e9, 1e9))[0]
    assert (generous >= [3.0, 5.0, 7.0]).all()
    level = thresholds(np.array([100.0]), AlertBudget(5.0, 5.0, 5.0))[0]
    assert (np.diff(level) >= 1.0).all()
    with pytest.raises(ValueError, match="not larger"):
        AlertBudget(0.1, 5.0, 20.0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_impossible_budget_is_refused(wrong: float) -> None:
    """No threshold keeps a budget of nothing."""
    with pytest.raises(ValueError, match="budgets must be positive"):
        thresholds(np.array([1.0]), AlertBudget(high=wrong))


def test_displayed_score_meets_levels_at_their_thresholds() -> None:
    """The displayed score is monotone, continuous in [0, 1], and begins each level exactly at its threshold."""
    limits = BOUNDS[0]
    scores = [risk_levels.displayed_score(x, limits) for x in np.linspace(-3, 12, 2_000)]
    assert all(0.0 <= a <= b <= 1.0 and b - a < 0.01 for a, b in itertools.pairwise(scores))
    for level, threshold in zip((2, 3, 4), limits, strict=True):
        assert risk_levels.level_for_score(risk_levels.displayed_score(threshold, limits)) == level
        assert risk_levels.level_for_score(risk_levels.displayed_score(threshold - 1e-6, limits)) < level


def test_score_halves_each_half_life_and_the_statistic_stays() -> None:
    """The displayed risk decays with its half-life exactly; the test statistic does not decay."""
    agent = One()
    agent.event(T0, signal=3.0)
    score, statistic = agent["score"], agent["statistic"]
    agent.tick(T0 + HOUR)
    assert agent["score"] == score * 0.5
    assert agent["statistic"] == statistic


def test_high_steps_down_one_level_at_a_time_and_dwells() -> None:
    """A silent agent leaves high for medium, then medium for low; each level lasts at least its dwell time, and not
    before the score has fallen below the level's lower edge."""
    agent = One()
    agent.event(T0, p=0.9, signal=7.0)
    assert agent["level"] == 3
    assert agent["due_ms"] >= T0 + risk_levels.DWELL_MS
    due = agent["due_ms"]
    assert agent.tick(due - 1) == (3, 3)
    assert agent.tick(due) == (3, 2)
    assert agent["score"] <= risk_levels.LEVEL_DOWN[3]
    again = agent["due_ms"]
    assert again >= due + risk_levels.DWELL_MS
    assert agent.tick(again - 1) == (2, 2)
    assert agent.tick(again)[1] in (0, 1)
    assert agent["due_ms"] == 0


def test_hysteresis_holds_a_level_on_the_edge() -> None:
    """Between the lower and the upper edge a level is kept, also through clean events within the dwell time."""
    agent = One()
    agent.event(T0, p=0.9, signal=4.9)
    assert agent["level"] == 2
    for second in range(1, 12):
        assert agent.event(T0 + second * 1000, p=0.9) == (2, 2)
    assert agent["score"] < risk_levels.LEVEL_UP[2]


@pytest.mark.parametrize("late", [0, HOUR, 400 * 24 * HOUR])
def test_one_long_pause_equals_many_ticks(late: int) -> None:
    """All steps that came due in a pause are taken at their own times, however late somebody looks."""
    looked, slept = critical(), critical()
    end = T0 + 72 * HOUR + late
    at = T0
    while at < end:
        at += 20 * 60_000
        looked.tick(min(at, end))
    slept.tick(end)
    for field in ("level", "since_ms", "at_ms", "due_ms", "statistic"):
        assert looked[field] == slept[field]
    assert looked["score"] == pytest.approx(slept["score"], rel=1e-9, abs=1e-300)


def test_critical_holds_until_its_end() -> None:
    """Clean events and time do not end critical before the longest hold; then it is high, with evidence below high."""
    agent = critical()
    for minute in range(200):
        assert agent.event(T0 + minute * 60_000, p=0.99) == (4, 4)
    end = T0 + int(SETTINGS.hold_ms)
    assert agent.tick(end - 1) == (4, 4)
    assert agent.tick(end) == (4, 3)
    assert agent["statistic"] <= 0.5 * (BOUNDS[0, 0] + BOUNDS[0, 1])
    assert agent["score"] < risk_levels.LEVEL_UP[4]


@pytest.mark.parametrize("signal", [4.5, 6.5, 20.0])
def test_an_alert_that_time_has_cleared_counts_half(signal: float) -> None:
    """The next odd event does not alert again; as much as it takes beyond half of medium does."""
    agent = One()
    agent.event(T0, signal=signal)
    assert agent["level"] >= 2
    agent.tick(T0 + 40 * HOUR)
    assert agent["level"] < 2
    assert agent["statistic"] == risk_levels.RESTART_SHARE * BOUNDS[0, 0]
    assert agent.event(T0 + 41 * HOUR, p=0.01)[1] < 2
    assert agent.event(T0 + 41 * HOUR, signal=2.0)[1] == 2


def test_waiting_below_medium_wins_nothing() -> None:
    """Evidence that raised no alert stays, however long an attacker waits."""
    agent = One()
    agent.event(T0, signal=3.5)
    before = agent["statistic"]
    agent.tick(T0 + 400 * HOUR)
    assert agent["statistic"] == before > risk_levels.RESTART_SHARE * BOUNDS[0, 0]


def test_release_ends_critical_at_once() -> None:
    """A person's release drops the evidence and the level; time does not go back."""
    agent = critical()
    risk_levels.release(agent.state[0], T0 - HOUR, SETTINGS)
    assert (agent["statistic"], agent["score"], agent["due_ms"], agent["at_ms"]) == (0.0, 0.0, 0, T0)
    assert agent["level"] in (0, 1)


def test_self_asserted_events_only_raise() -> None:
    """Whatever a self-asserted event says, statistic, score, level, confidence, events and streak never fall, even if
    it claims a peer group with lower thresholds."""
    dice = np.random.default_rng(5)
    for trial in range(300):
        agent = One(np.array([[2.0, 3.0, 4.0]]) if trial % 2 else BOUNDS)
        for _ in range(int(dice.integers(0, 30))):
            agent.event(T0, p=float(1.0 - dice.random() ** 2), signal=float(dice.choice([0.0, 0.0, 3.0])))
        before = agent.state[0].copy()
        agent.bounds = np.array([[0.5, 1.0, 1.5]])
        agent.event(T0, p=float(1.0 - dice.random()), asserted=True)
        for field in ("statistic", "score", "level"):
            assert (agent.state[0][field] >= before[field]).all()
        for field in ("confidence", "events", "streak", "peak"):
            assert (agent.state[0][field] == before[field]).all()


def test_self_asserted_events_raise_to_high_at_most() -> None:
    """Whoever can do nothing but fail to sign in by an agent's name does not get its tokens revoked."""
    agent = One()
    for second in range(500):
        agent.event(T0 + second * 1_000, p=1e-5, signal=2.0 * (second % 7 == 0), asserted=True)
    assert agent["level"] == 3 and agent["statistic"] == BOUNDS[0, 1]

    while agent["level"] < 4:
        agent.event(T0 + 500_000, p=1e-5)
    at_critical = agent["statistic"]
    agent.event(T0 + 501_000, p=1e-5, asserted=True)
    assert (agent["level"], agent["statistic"]) == (4, at_critical)


def test_self_asserted_events_never_make_an_unknown_agent_low() -> None:
    """Nobody becomes known by claiming a well-known peer group."""
    agent = One()
    for minute in range(500):
        agent.event(T0 + minute * 60_000, p=0.9, asserted=True)
    assert (agent["level"], agent["confidence"], agent["events"]) == (0, 0.0, 0)


def test_own_denials_are_no_behaviour() -> None:
    """Our own denial changes neither evidence nor knowledge; only time passes."""
    agent = One()
    agent.event(T0, signal=2.0)
    before = agent.state[0].copy()
    agent.event(T0, p=1e-6, skip=True)
    assert agent.state[0] == before
    assert agent.out[0, risk.GAIN] == 0.0


def test_signals_count_where_there_is_no_behaviour() -> None:
    """What others say of an agent adds its weight; its p-value says nothing, and the agent is known no better by it."""
    agent = One()
    agent.event(T0, signal=2.0)
    before = agent.state[0].copy()
    agent.event(T0, p=1e-6, signal=3.0, skip=True)
    assert agent.out[0, risk.GAIN] == 3.0
    told = risk_levels.MALFUNCTION  # where compromise has no share of the budget
    assert agent.state[0]["statistic"][told] == max(before["statistic"][told], 0.0) + 3.0
    assert (agent["confidence"], agent["events"]) == (before["confidence"], before["events"])
    agent.event(T0, signal=1_000.0, skip=True)
    assert agent["level"] == 4


def test_confidence_decides_between_unknown_and_low() -> None:
    """An agent of an unknown group is unknown until its own history says enough; one of a known group sooner."""
    lone, covered = One(), One()
    lone.event(T0, coverage=0.0)
    covered.event(T0, coverage=0.9)
    assert (lone["level"], covered["level"]) == (0, 1)
    seen = 1
    while lone["level"] == 0:
        lone.event(T0 + seen, coverage=0.0)
        seen += 1
    assert lone["confidence"] >= risk_levels.CONFIDENCE_MINIMUM
    assert seen == math.ceil(0.3 * risk_levels.OWN_EVENTS / 0.7)


def test_recovery_is_bounded() -> None:
    """The statistic has a ceiling above critical, whatever happens."""
    agent = One()
    for second in range(1_000):
        agent.event(T0 + second, p=1e-9, signal=30.0)
    assert agent["statistic"] == BOUNDS[0, 2] + 4.0
    assert agent["score"] <= 1.0


def test_time_never_goes_back() -> None:
    """A late event or an early tick moves no clock back, and scores as if it came now."""
    agent = One()
    agent.event(T0, signal=3.0)
    score = agent["score"]
    assert agent.tick(T0 - HOUR) == (agent["level"], agent["level"])
    agent.event(T0 - 5 * HOUR, p=0.1)
    assert agent["at_ms"] == T0
    assert agent["score"] >= score


@pytest.mark.parametrize("at", [0, 1, 253_402_300_799_000])
def test_extreme_times_stay_finite(at: int) -> None:
    """From 1970 to the year 9999 nothing overflows and every number stays finite."""
    agent = One()
    agent.event(at, signal=20.0)
    assert agent["level"] == 4
    agent.tick(at + 400 * 24 * HOUR)
    agent.event(253_402_300_799_000)
    assert agent["level"] < 4
    for field in ("statistic", "score", "streak", "peak", "confidence"):
        assert math.isfinite(agent[field])


@pytest.mark.parametrize("dependent", [False, True], ids=["independent", "identical"])
def test_all_concerns_together_keep_the_budget(dependent: bool) -> None:
    """With thresholds for shares of the budget, however the p-values of concerns depend on each other."""
    agents, days, per_day, budget, shares = 400, 60, 24, AlertBudget(), (0.5, 0.4, 0.1)
    dice, state = np.random.default_rng(7), risk_levels.allocate(agents)
    parts = [AlertBudget(share * budget.medium, share * budget.high, share * budget.critical) for share in shares]
    bounds = np.stack([thresholds(np.array([float(per_day)]), part)[0] for part in parts])[None]
    slots, levels = np.arange(agents, dtype=np.int32), np.zeros((agents, 2), np.int8)
    rises = np.zeros(3, np.int64)
    for number in range(days * per_day):
        p_values = 1.0 - dice.random((agents, 1 if dependent else 3))
        times, by_concern = np.full(agents, T0 + number * HOUR), np.broadcast_to(p_values, (agents, 3)).copy()
        apply_events(state, times, by_concern, bounds, levels, slots=slots)
        rises += risk_levels.count_rises(levels[:, 0], levels[:, 1])
    assert (rises / (agents * days) * 1000.0 <= [budget.medium, budget.high, budget.critical]).all()
    assert rises[0] > 0


class ByConcern(One):
    """One agent under thresholds for every concern; p-values by concern."""

    def judge(self, at_ms: int, p_values: tuple[float, float, float], signal: float = 0.0) -> str:
        """Apply an event; returns what the risk is about."""
        bounds = np.repeat(self.bounds[:, None], 3, axis=1)
        apply_events(self.state, np.array([at_ms]), np.array([p_values]), bounds, self.levels, self.out, signal=signal)
        return CONCERNS[int(self.out[0, risk.CONCERN])]


@pytest.mark.parametrize(
    ("p_values", "about"),
    [
        ((1e-6, 0.5, 0.5), "compromise"),
        ((0.5, 1e-6, 0.5), "malfunction"),
        ((0.5, 0.5, 1e-6), "overreach"),
        ((1e-6, 9e-7, 0.5), "compromise"),  # all there is tells no more than the narrower question
        ((0.5, 9e-7, 1e-6), "overreach"),
        ((1e-4, 1e-6, 1e-4), "malfunction"),
    ],
)
def test_the_gravest_concern_says_what_the_risk_is_about(p_values: tuple[float, float, float], about: str) -> None:
    """The level is that of the statistic that has climbed highest; quiet events change no word of it."""
    agent = ByConcern()
    for minute in range(2):
        named = agent.judge(T0 + minute * HOUR, p_values)
    assert named == about and int(agent.levels[0, 1]) >= 2
    assert agent.judge(T0 + HOUR, (0.9, 0.9, 0.9)) == about


@pytest.mark.parametrize("noise", [(0.5, 1e-9, 0.5), (0.5, 0.5, 1e-9)], ids=["malfunction", "overreach"])
def test_noise_does_not_change_what_a_hijack_is_about(noise: tuple[float, float, float]) -> None:
    """Policy may be milder about noise, which is named where it raises the level, or where that has fallen since."""
    agent = ByConcern()
    for minute in range(8):
        assert agent.judge(T0 + minute * MINUTE, (1e-9, 0.5, 0.5)) == "compromise"
    assert int(agent.levels[0, 1]) == risk_levels.CRITICAL
    for minute in range(8, 40):
        assert agent.judge(T0 + minute * MINUTE, noise) == "compromise"
    assert agent.state["statistic"][0].argmax() != 0, "the noise is louder by far"

    risk_levels.release(agent.state[0], T0 + 40 * MINUTE, SETTINGS)
    for minute in range(41, 45):
        named = agent.judge(T0 + minute * MINUTE, noise)
    assert named == CONCERNS[int(np.argmin(noise))]


def test_a_hijack_behind_noise_is_named() -> None:
    """Whoever makes the noise first gains nothing by it."""
    agent = ByConcern()
    for minute in range(8):
        assert agent.judge(T0 + minute * 1000, (0.5, 1e-9, 0.5)) == "malfunction"
    for minute in range(8, 16):
        named = agent.judge(T0 + minute * 1000, (1e-9, 1e-12, 0.5))
    assert named == "compromise"


def test_a_hijack_behind_usual_noise_is_named_as_soon_as_it_gives_the_level() -> None:
    """Noise that has become usual raises nothing more, though its statistic still stands above the hijack's."""
    agent = ByConcern()
    for minute in range(8):
        agent.judge(T0 + minute * 1000, (0.5, 1e-9, 0.5))
    louder = 0
    for minute in range(8, 14):
        named = agent.judge(T0 + minute * 1000, (1e-4, 0.18, 0.5))
        hijack, noise, _ = agent.state["statistic"][0]
        assert named == ("compromise" if hijack >= BOUNDS[0, 2] else "malfunction")
        louder += named == "compromise" and noise > hijack
    assert louder


@pytest.mark.parametrize(
    ("errors", "coincidence", "raised"),
    [((0.001,), (0.0004, 0.0003, 0.5), True), ((1e-5, 1e-5), (0.002, 0.001, 0.5), False)],
    ids=["raises the level", "follows it"],
)
def test_one_coincidence_does_not_name_compromise(
    errors: tuple[float, ...], coincidence: tuple[float, float, float], raised: bool
) -> None:
    """One of many errors is about as odd to that question by chance, and its name would stay while the level lasts."""
    agent = ByConcern()
    for second, p_value in enumerate(errors):
        assert agent.judge(T0 + second * 1000, (0.5, p_value, 0.5)) == "malfunction"
    before = int(agent.levels[0, 1])
    assert agent.judge(T0 + 10_000, coincidence) == "malfunction"
    after = int(agent.levels[0, 1])
    assert after >= risk.MEDIUM and (after > before) is raised
    assert agent.judge(T0 + 11_000, (0.5, 0.001, 0.5)) == "malfunction"


def test_hard_signals_tell_of_compromise() -> None:
    """Where it has no share of the budget, they count for malfunction (`One` has such thresholds)."""
    agent = ByConcern()
    assert agent.judge(T0, (0.5, 0.5, 0.5), signal=20.0) == "compromise"
    assert agent.state["statistic"][0].argmax() == 0
    assert critical().state["statistic"][0].argmax() == QUESTION


def test_overreach_takes_one_bet_an_hour() -> None:
    """However many events tell the same, an hour is worth one of them; the next hour tells it again."""
    once, often = ByConcern(), ByConcern()
    once.judge(T0, (0.9, 0.9, 1e-3))
    for second in range(1_000):
        often.state["events"] = 0  # as well known as the other one
        often.judge(T0 + second * 1000, (0.9, 0.9, 1e-3))
    first = float(once.state["statistic"][0, 2])
    assert float(often.state["statistic"][0, 2]) == pytest.approx(first)
    often.state["events"] = 0
    often.judge(T0 + HOUR, (0.9, 0.9, 1e-3))
    assert float(often.state["statistic"][0, 2]) == pytest.approx(2 * first)
    risk_levels.release(often.state[0], T0 + HOUR, SETTINGS)
    often.judge(T0 + HOUR + 1, (0.9, 0.9, 0.9))
    assert float(often.state["statistic"][0, 2]) < 0.0  # what was released does not come back with the hour
