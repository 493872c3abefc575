"""Verdicts on the calls of simulated fleets: how many honest ones wait, and how many of a thief's.

Every call of the week behind the training is asked about before it is made. Nobody answers, and each call is made all
the same (as in shadow mode), so that thieves get as far as they can. A thief is the hardest there is:
each of its calls is one that its victim made, honest in all but the access path. Run it as
`python -m benchmarks.detection.asked_fleets AGENTS TENANTS EVENTS_PER_AGENT_DAY SEED…`; all fleets are trained in one
process, and their figures pooled at the end. docs/detection.md has the figures.
"""

from __future__ import annotations

import copy
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.access_path import AccessPath
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.models.call_challenges import CALL_TYPES
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.backtest.challenge_counts import CALLS_AT_ONCE, clustered_share_bounds
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.announced_paths import KINDS, as_parts
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.learning.budget_check import ChallengeExpectation, expect_challenges
from trustwatch.scoring.learning.walkforward import WalkForwardResult, train_walk_forward
from trustwatch.scoring.pipeline.replay import HistoryReplay

from ..attacks.attacked_enterprise import SALT, raise_malformed
from .call_verdicts import as_questions
from .fleet_budgets import FleetSize, split_fleet

LEARNED_DAYS = 14
TENANTS = "acme-corp", "globex", "initech", "umbrella", "hooli"
DOMAINS = {name: (f"{name}.example",) for name in TENANTS}
VICTIMS, LEAST_CALLS = 8, 150
"""Agents that are robbed, and calls of the week that one makes at least."""
THIEF_BEGINS = timedelta(days=1)
THIEF_LAGS = timedelta(minutes=7)
THIEF_NETWORK = {"ip": "203.0.113.66", "asn": 64666, "user_agent": "curl/8.5"}
FIRST_CALLS = (1, 10, 100)
NEW_ACTION = "first_seen_action"
"""Code of the reason of an action that nothing shows of an agent."""

Event = dict[str, Any]


class AskedWeek(NamedTuple):
    """Calls of an honest fleet that were asked about in the week behind its training.

    Attributes:
        asked: (a,), calls of each agent.
        by_model: (a,), of them those that would wait by the snapshots alone.
        waiting: (a,), those that wait.
        new_action: (a,), of these those of an action that the agent's history does not show.
        with_trust: (a,), those that wait where a person trusts an access path as soon as it alone is why.
    """

    asked: NDArray[np.int32]
    by_model: NDArray[np.int32]
    waiting: NDArray[np.int32]
    new_action: NDArray[np.int32]
    with_trust: NDArray[np.int32]

    def described(self) -> str:
        """The figures in words, of 1,000 calls."""
        calls = int(self.asked.sum())
        by_model, waiting, new_action, trusted = (1_000.0 * int(counts.sum()) / calls for counts in self[1:])
        low, high = (1_000.0 * bound for bound in clustered_share_bounds(self.asked, self.waiting) or (0.0, 1.0))
        worst = 1_000.0 * int(self.waiting.max()) / calls
        return (
            f"of {calls} calls {waiting:.1f} of 1,000 wait ({low:.1f} to {high:.1f} roughly, calls of an agent "
            f"together; {new_action:.1f} for a new action, {worst:.1f} of one agent), {by_model:.1f} by snapshots "
            f"alone, {trusted:.1f} where a person trusts new access paths"
        )


def pool_weeks(weeks: Sequence[AskedWeek]) -> AskedWeek:
    """Weeks of several fleets as one: their agents beside each other."""
    return AskedWeek(*(np.concatenate(counts) for counts in zip(*weeks, strict=True)))


class Thief(NamedTuple):
    """A way to use a stolen identity beside its owner.

    Attributes:
        name: for the table.
        takes: which of the owner's events it repeats: one in so many.
        own_key: it has a key that nobody announced.
        is_alone: the owner falls silent.
    """

    name: str
    takes: int = 1
    own_key: bool = False
    is_alone: bool = False


THIEVES = (
    Thief("stolen key, the owner's pace"),
    Thief("a key of its own, the owner's pace", own_key=True),
)


class _AnnouncedReplay(HistoryReplay):
    """A replay that keeps what was announced before each event, and the level before it."""

    def _events_of(self, scored: ScoredBatch) -> Iterator[Any]:
        yield scored.announced_paths.copy(), scored.risk[:, risk.LEVEL_BEFORE].copy()


def replay_week(model: TrainedModel, events: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Announced parts of each event's access path, as bits, and the level of its agent; both before it."""
    run = _AnnouncedReplay(model, EngineSettings(capacity=4_000), DOMAINS)
    source = FileSource(io.BytesIO(b"\n".join(events) + b"\n"))
    parts: list[Any] = list(run.replayed_events(source, raise_malformed))
    announced, levels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return announced, levels


def train_fleet(history: Sequence[bytes]) -> WalkForwardResult:
    """Learn the first days of a fleet."""
    columns = ColumnEncoder(SALT, DOMAINS).encode([decode_history_event(event)[0] for event in history])
    return train_walk_forward(columns, SALT, "fleet")


def ask_about_week(model: TrainedModel, judged: Sequence[bytes]) -> AskedWeek:
    """Ask about every call of a week without attacks."""
    scorer = CallScorer(model, {}, DOMAINS, CALLS_AT_ONCE)
    questions = list(as_questions(judged))
    rows = [row for row, question in enumerate(questions) if question.type in CALL_TYPES]
    calls, announced = [questions[row] for row in rows], as_parts(replay_week(model, judged)[0][rows])
    scores = scorer.score_many(calls, announced)
    by_model = [call for call, score in zip(calls, scorer.score_many(calls), strict=True) if score.exceeds]
    waiting = [(call, score) for call, score in zip(calls, scores, strict=True) if score.exceeds]
    new_action = [call for call, score in waiting if any(reason.code == NEW_ACTION for reason in score.reasons)]
    left = _left_with_trust(scorer, [call for call, _ in waiting])
    kinds = calls, by_model, [call for call, _ in waiting], new_action, left
    agents = sorted({_agent_of(call) for call in calls})
    return AskedWeek(*(_count_by_agent(kind, agents) for kind in kinds))


def _agent_of(call: NativeEvent) -> tuple[str, str]:
    return call.tenant or "", call.agent.id


def _count_by_agent(calls: Sequence[NativeEvent], agents: Sequence[tuple[str, str]]) -> NDArray[np.int32]:
    counts = Counter(map(_agent_of, calls))
    return np.array([counts[agent] for agent in agents], np.int32)


def _left_with_trust(scorer: CallScorer, waiting: Sequence[NativeEvent]) -> list[NativeEvent]:
    without_path = scorer.score_many(waiting, np.full((len(waiting), KINDS), True))
    left, trusted = [], set()
    for call, score in zip(waiting, without_path, strict=True):
        path = (call.tenant, call.agent.issuer, call.agent.id), AccessPath.of_event(call)
        if score.exceeds or path not in trusted:
            left.append(call)
        if not score.exceeds:
            trusted.add(path)
    return left


def rob(judged: Sequence[bytes], victims: Sequence[str], thief: Thief) -> list[tuple[bytes, bool]]:
    """Events of the week of *victims* and of their thieves, in order; True for those of thieves."""
    own = [event for line in judged if (event := json.loads(line))["agent"]["id"] in victims]
    begin, turns = _time_of(own[0]) + THIEF_BEGINS, Counter[str]()
    out: list[tuple[datetime, bytes, bool]] = []
    for event in own:
        at, agent = _time_of(event), event["agent"]["id"]
        is_late = at >= begin
        if not (is_late and thief.is_alone):
            out.append((at, json.dumps(event).encode(), False))
        turns[agent] += is_late
        if is_late and event["type"] != "client.change" and turns[agent] % thief.takes == 0:
            out.append((at + THIEF_LAGS, json.dumps(_stolen(event, thief)).encode(), True))
    out.sort(key=lambda entry: entry[0])
    return [(line, is_thief) for _, line, is_thief in out]


def _time_of(event: Event) -> datetime:
    return datetime.fromisoformat(event["time"])


def _stolen(event: Event, thief: Thief) -> Event:
    """An event as the thief repeats it."""
    repeated = copy.deepcopy(event)
    repeated["id"] += "-thief"
    repeated["time"] = (_time_of(event) + THIEF_LAGS).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    repeated["client"] = THIEF_NETWORK
    for name in ("session", "trace_id", "txn"):
        if name in repeated:
            repeated[name] += "-thief"
    if thief.own_key and "credential" in repeated:
        repeated["credential"]["thumbprint"] = "thief-" + repeated["agent"]["id"]
    return repeated


class AskedThieves(NamedTuple):
    """Calls of thieves that were asked about; shares of each thief.

    Attributes:
        first: (thieves, 3, 3), of the first calls by `FIRST_CALLS`, those that wait: by the snapshots alone; as it is;
            as it is, or held by the agent's level (medium or above).
        announced: (thieves,), whether its network passed for announced at one of its calls.
    """

    first: NDArray[np.float64]
    announced: NDArray[np.bool_]

    def described(self) -> str:
        """The means over thieves in words."""
        means = self.first.mean(axis=0) if len(self.first) else np.zeros((len(FIRST_CALLS), 3))
        shares = (
            f"first {number} {by_model:.3f} / {waits:.3f} / {held:.3f}"
            for number, (by_model, waits, held) in zip(FIRST_CALLS, means.tolist(), strict=True)
        )
        network = f"network of {int(self.announced.sum())} announced"
        return f"{len(self.first)} ({network}), by snapshots / as it is / with level: {', '.join(shares)}"


def ask_about_thieves(model: TrainedModel, judged: Sequence[bytes], thief: Thief) -> AskedThieves:
    """Ask about each call of thieves of a fleet's identities."""
    made = rob(judged, choose_victims(judged), thief)
    questions = list(as_questions([line for line, _ in made]))
    announced, levels = replay_week(model, [line for line, _ in made])
    rows = [row for row, (_, stolen) in enumerate(made) if stolen and questions[row].type in CALL_TYPES]
    scorer, calls = CallScorer(model, {}, DOMAINS, CALLS_AT_ONCE), [questions[row] for row in rows]
    by_model = np.array([score.exceeds for score in scorer.score_many(calls)])
    waits = np.array([score.exceeds for score in scorer.score_many(calls, as_parts(announced[rows]))])
    flags = np.stack([by_model, waits, waits | (levels[rows] >= risk_levels.MEDIUM)], axis=1)
    of_thief: dict[str, list[int]] = defaultdict(list)
    for place, call in enumerate(calls):
        of_thief[call.agent.id].append(place)
    places = list(of_thief.values())
    first = [[flags[own[:number]].mean(axis=0) for number in FIRST_CALLS] for own in places]
    network = as_parts(announced[rows])[:, 0]
    return AskedThieves(
        np.array(first).reshape(-1, len(FIRST_CALLS), 3), np.array([network[own].any() for own in places], np.bool_)
    )


def choose_victims(judged: Sequence[bytes]) -> list[str]:
    """The first agents that are busy enough."""
    calls = Counter(event["agent"]["id"] for line in judged if (event := json.loads(line))["type"] in CALL_TYPES)
    return sorted(agent for agent, count in calls.items() if count >= LEAST_CALLS)[:VICTIMS]


class AskedFleet(NamedTuple):
    """What was asked of one fleet.

    Attributes:
        week: of the honest.
        thieves: in the order of `THIEVES`.
        expected: by the training; None = it can say nothing.
    """

    week: AskedWeek
    thieves: list[AskedThieves]
    expected: ChallengeExpectation | None


def ask_about_fleet(size: FleetSize, tenants: int, seed: int) -> AskedFleet:
    """Learn the first days of a fleet, and ask about the week behind them."""
    history, judged = split_fleet(size, seed, TENANTS[:tenants])
    trained = train_fleet(history)
    expected = expect_challenges(trained.calls, {})
    week = ask_about_week(trained.model, judged)
    return AskedFleet(week, [ask_about_thieves(trained.model, judged, thief) for thief in THIEVES], expected)


def main() -> None:
    """Figures of fleets, one after the other, and pooled."""
    agents, tenants, pace, *seeds = map(int, sys.argv[1:])
    fleets: list[AskedFleet] = []
    for seed in seeds:
        asked = ask_about_fleet(FleetSize(agents, pace, LEARNED_DAYS), tenants, seed)
        fleets.append(asked)
        expected = "" if asked.expected is None else f"; training: {asked.expected.describe()}"
        _tell(f"fleet {seed}, {agents} agents, {tenants} tenants: {asked.week.described()}{expected}")
        for thief, robbed in zip(THIEVES, asked.thieves, strict=True):
            _tell(f"  {thief.name}, {robbed.described()}")
    _tell(f"{len(fleets)} fleets: {pool_weeks([fleet.week for fleet in fleets]).described()}")
    for thief, of_fleets in zip(THIEVES, zip(*(fleet.thieves for fleet in fleets), strict=True), strict=True):
        together = AskedThieves(*(np.concatenate(parts) for parts in zip(*of_fleets, strict=True)))
        _tell(f"  {thief.name}, {together.described()}")


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
