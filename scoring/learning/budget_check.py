"""Compares the alert budget with the alerts it would have let through on the model's own history.

Every event of a training history has an honest p-value, from a detector that had not seen it. Run through the risk
kernel in order, they show how often normal agents would have reached each level. Hard signals that they set off are
included if training validated the history's end (walk-forward), and left out otherwise. The thresholds come from the
same history, so that the truth is a little worse.

A budget of one alert in a thousand agent-days cannot be checked on a hundred of them; the answer is then "unknown".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.events import EFFECTS
from trustwatch.ingest.printable_text import number_text
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.call_challenges import SCORE_RESOLUTION, allowed_calls
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.input_checks import Floats, Ints
from trustwatch.models.trained_model import TrainedModel

from ..engine import risk, risk_levels
from ..engine.hard_signals import COUNTS
from ..engine.settings import ChallengeBudget, RiskEvaluationSettings, accepted_challenges
from ..engine.usual_anomalies import USUAL
from .budget_chart import BREACH_PROBABILITY, upper_control_limit
from .walkforward import ValidatedScores


class LevelBudgetReport(NamedTuple):
    """One level. Rates are per 1,000 agent-days."""

    level: str
    budget: float
    alerts: int  # times that an agent of the history came from below the level to it or above
    observed: float
    enough_data: bool  # whether the history is long enough to show that the budget is kept


class BudgetReport(NamedTuple):
    """The alerts that a model's thresholds allow, and those that its own history would have raised."""

    agent_days: int  # days on which an agent was active, summed over agents
    levels: tuple[LevelBudgetReport, ...]  # medium, high, critical
    groups_of_their_own: int  # peer groups with enough history for a separate calibration
    groups_of_the_fleet: int  # peer groups that are judged by the fleet's

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "levels": [level._asdict() for level in self.levels]}

    def describe(self) -> list[str]:
        """Describe the result as text, one line per level."""
        lines = [
            f"held-out history of {self.agent_days} agent-days, alerts per 1,000 agent-days (hard signals included, "
            "if it was long enough for a validation):"
        ]
        for report in self.levels:
            verdict = "" if report.enough_data else "; too little history to tell"
            if report.level in self.broken_levels:
                verdict = (
                    f"; NOT KEPT: {report.alerts} alerts, {self._most_by_chance(report)} are still chance; look at "
                    "these agents, or set a larger `risk.alert_budget`, before you enforce this level"
                )
            observed, budget = number_text(report.observed), number_text(report.budget)
            lines.append(f"  {report.level}: {observed} observed, budget {budget}{verdict}")
        if self.groups_of_the_fleet:
            lines.append(
                f"{self.groups_of_the_fleet} of {self.groups_of_the_fleet + self.groups_of_their_own} peer groups have "
                "too little history of their own: they are judged by the fleet's calibration"
            )
        return lines

    @property
    def broken_levels(self) -> list[str]:
        """Levels that the history reached more often than chance explains if the budget were kept."""
        return [report.level for report in self.levels if report.alerts > self._most_by_chance(report)]

    def _most_by_chance(self, report: LevelBudgetReport) -> int:
        return upper_control_limit(report.budget * self.agent_days / 1000.0, BREACH_PROBABILITY)


def check_budget(
    model: TrainedModel,
    columns: EventColumns,
    p_values: Floats,
    settings: RiskEvaluationSettings,
    habits: npt.NDArray[np.int8] | None = None,
    signals: Floats | None = None,
) -> BudgetReport:
    """Run the held-out p-values of a history through the risk kernel.

    Args:
        columns: the history, in order, with n events.
        p_values: float64 (n, 3), held-out p-values of each by concern, see `train_with_held_out`.
        settings: budget and risk to check.
        habits: int8 (n,), see `risk.update`; None = all are usual.
        signals: float64 (n, COUNTS), evidence of hard signals, likewise; None leaves them out.
    """
    keys, slots = np.unique(columns.names[:, event_columns.AGENT], return_inverse=True)
    n, groups = len(columns), columns.names[:, event_columns.GROUP]
    levels, outputs = np.zeros((n, 2), np.int8), np.zeros((n, risk.OUTPUTS))
    state = risk_levels.allocate(len(keys))
    if len(model.seeds.keys):  # events that each agent had before the judged ones
        seed_of = np.minimum(np.searchsorted(model.seeds.keys, keys), len(model.seeds.keys) - 1)
        shown = np.where(model.seeds.keys[seed_of] == keys, model.seeds.events[seed_of], 0)
        state["events"] = np.maximum(shown - np.bincount(slots, minlength=len(keys)), 0)
    risk.update(
        np.arange(n),
        slots,
        state,
        columns.time_ms,
        p_values,
        np.ones(n),
        np.zeros(n),
        model.coverage(groups),
        np.zeros((n, COUNTS)) if signals is None else signals,
        risk_levels.model_thresholds(model, settings.budget),
        model.group_rows(groups),
        columns.codes[:, event_columns.SELF_ASSERTED],
        columns.codes[:, event_columns.OWN_DENIAL],
        np.full(n, USUAL, np.int8) if habits is None else habits,
        risk_levels.kernel_parameters(settings),
        levels,
        outputs,
        np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS)),
    )
    days = len(np.unique(np.stack([slots, columns.time_ms // DAY_MS]), axis=1).T)
    own = sum(model.detector.covers(int(group)) for group in model.groups[1:].tolist())
    rises = risk_levels.count_rises(levels[:, 0], levels[:, 1])
    reports = []
    for (name, allowed), alerts in zip(settings.budget.by_level().items(), rises.tolist(), strict=True):
        enough = allowed / 1000.0 * days >= risk_levels.MIN_EXPECTED_ALERTS
        reports.append(LevelBudgetReport(name, allowed, alerts, alerts * 1000.0 / max(days, 1), enough))
    return BudgetReport(days, tuple(reports), own, len(model.groups) - 1 - own)


# What makes many honest calls wait is rare and lasts: an agent's new release with a new action, a new delegation chain,
# a newcomer. The next training knows it, the active model does not, so all such calls of one agent are equally
# anomalous. Thresholds have seen the changes of the history's end, not those of the days to come. So each agent of the
# validated end is judged by the thresholds that the validated calls of the others alone would give: held-out calls,
# which may raise thresholds further, are left out, since the agent's own are among them. The calls that then wait are
# the expected ones.
#
# How far a week may be above that is a rough estimate: as many agents as 95 of 100 such histories allow (Clopper and
# Pearson), and each with as many calls that wait as the worst of these, or, if few wait, all its calls. A worse one
# may come. Few agents allow nearly anything. In simulated histories of 40 to 1,000 agents it was never below the truth,
# and five to eight times of it. Thresholds of several tenants are bounded against each other, which is not done here.
# If the budget is not shown to be kept, the promise is called advisory; the thresholds still apply.

MOST_EXCESS = 1.5
"""Multiple of the budget below which the rough bound has to lie for the promise to count as shown."""
ENOUGH_WAITING = 10
"""Agents with calls that wait, of which the worst shows how bad one may be."""
_CONFIDENCE = 0.95


class ChallengeExpectation(NamedTuple):
    """Calls of 1,000 that wait if nobody approves any, for agents whose changes the thresholds have not seen."""

    # calls, agents, tenants: of the validated end of the history
    calls: int
    agents: int
    tenants: int
    days: float  # that it lasted
    waiting_agents: int  # of the agents, those with calls that would wait
    budget: float  # calls of 1,000 that may wait, of these calls
    expected: float  # of 1,000
    at_most: float  # of 1,000, roughly

    @property
    def is_shown(self) -> bool:
        """True if the history shows that the budget is kept."""
        return self.tenants == 1 and self.at_most <= MOST_EXCESS * self.budget

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "advisory": not self.is_shown}

    @property
    def summary(self) -> str:
        """Summarize the expectation in a few words."""
        expected, at_most = number_text(self.expected), number_text(self.at_most)
        text = f"{expected} of 1,000 expected, at most about {at_most}; budget {number_text(self.budget)}"
        return text if self.is_shown else f"{text}, advisory"

    def describe(self) -> str:
        """Describe the expectation for the operator who trains."""
        text = (
            f"calls that wait if no person answers, of 1,000: {number_text(self.expected)} expected "
            f"(at most about {number_text(self.at_most)}), budget {number_text(self.budget)}; by the last "
            f"{number_text(self.days)} days of the history, in which "
            f"calls of {self.waiting_agents:,} of {self.agents:,} agents would have waited"
        )
        if self.is_shown:
            return text
        why = "" if self.tenants == 1 else "; what bounds its tenants against each other is not counted"
        return (
            f"{text}{why}; ADVISORY: this history does not show that `risk.challenge_budget` is kept. One agent's new "
            "action, chain or key can use it up until a newer model is promoted"
        )


def expect_challenges(validated: ValidatedScores | None, budget: ChallengeBudget) -> ChallengeExpectation | None:
    """Return the expectation for a model's thresholds, or None if its history was too short to validate them."""
    if validated is None:
        return None
    agents, agent_of = np.unique(validated.agent, return_inverse=True)
    scores, waits, may_wait = validated.scores, np.zeros(len(agent_of), np.bool_), np.zeros(len(agent_of))
    for code, effect in enumerate(EFFECTS):
        # The threshold for each agent's calls comes from those of all other agents: of the effect, or of any effect if
        # there are too few, as for the thresholds themselves.
        of_effect, per_1000 = validated.effect == code, accepted_challenges(budget, effect)
        own = _scores_exceeded(scores[of_effect], agent_of[of_effect], len(agents), per_1000)
        of_any = _scores_exceeded(scores, agent_of, len(agents), per_1000)
        thresholds = np.where(np.isfinite(own), own, of_any) + SCORE_RESOLUTION
        waits[of_effect] = (scores > thresholds[agent_of])[of_effect]
        may_wait[of_effect] = per_1000
    # As many agents as possible have as many waiting calls as the worst one. If few calls wait, the worst agent is not
    # informative, and each is taken to have all calls of a usual agent.
    calls, waiting = np.bincount(agent_of), np.bincount(agent_of, waits).astype(np.int64)
    usual, count = float(calls.mean()), int((waiting > 0).sum())
    worst = max(float(waiting.max()), usual if count < ENOUGH_WAITING else 0.0)
    at_most = min(1.0, upper_share(count, len(calls)) * worst / usual)
    return ChallengeExpectation(
        len(waits),
        len(agents),
        validated.tenants,
        validated.days,
        len(np.unique(agent_of[waits])),
        float(may_wait.mean()),
        1000.0 * float(waits.mean()),
        1000.0 * at_most,
    )


def upper_share(count: int, of: int) -> float:
    """Return the upper 97.5 % bound on a share of which *count* were seen (Clopper and Pearson).

    >>> [round(upper_share(*seen), 4) for seen in ((0, 1), (0, 40), (2, 40), (40, 40))]
    [0.975, 0.0881, 0.1692, 1.0]
    """
    from scipy.special import betaincinv  # takes as long as scikit-learn, which training alone needs

    return 1.0 if count >= of else float(betaincinv(count + 1, of - count, (1.0 + _CONFIDENCE) / 2.0))


def _scores_exceeded(scores: Floats, agent_of: Ints, agents: int, per_1000: float) -> Floats:
    """Return for each agent the score that at most *per_1000* of 1,000 calls of the others exceed; infinite if there
    are too few."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    found = np.full(agents, np.inf)
    by_agent = np.argsort(agent_of[order], kind="stable")  # places of each agent's calls in the ranking, ascending
    ends = np.cumsum(np.bincount(agent_of, minlength=agents))
    for agent, places in enumerate(np.split(by_agent, ends[:-1])):
        allowed = allowed_calls(len(scores) - len(places), per_1000)
        if allowed:
            own = 0  # of the agent's calls, those above the allowed-th one of the others
            while own < len(places) and places[own] < allowed + own:
                own += 1
            found[agent] = ranked[allowed + own - 1]
    return found
