"""Verdicts on the calls of simulated fleets: how many honest ones wait, and how many of a thief's.

Every call of the week behind the training is asked about before it is made. Nobody answers, and each call is made all
the same (as in shadow mode), so that thieves get as far as they can. A thief is the hardest there is:
each of its calls is one that its victim made, honest in all but the access path. Run it as
`python -m benchmarks.detection.asked_fleets AGENTS TENANTS EVENTS_PER_AGENT_DAY SEED…`; reference/detection.md has the
figures.
"""

from __future__ import annotations

import copy
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
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
from trustwatch.scoring.backtest.challenge_counts import CALLS_AT_ONCE
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.announced_paths import KINDS, as_parts
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.engine.settings import ChallengeBudget
from trustwatch.scoring.learning.walkforward import train_walk_forward
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

Event = dict[str, Any]


class AskedWeek(NamedTuple):
    """Calls of an honest fleet that were asked about in the week behind its training.

    Attributes:
        calls: asked about.
        by_model: of them, those that would wait by the snapshots alone, as before.
        waiting: of them, those that wait.
        with_trust: of them, where a person trusts an access path as soon as it alone is why.
    """

    calls: int
    by_model: int
    waiting: int
    with_trust: int


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
    Thief("stolen key, a quarter of the owner's pace", 4),
    Thief("stolen key, the owner's pace"),
    Thief("a key of its own, the owner's pace", own_key=True),
    Thief("stolen key, the owner is silent", is_alone=True),
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


def train_fleet(history: Sequence[bytes]) -> TrainedModel:
    """Learn the first days of a fleet."""
    columns = ColumnEncoder(SALT, DOMAINS).encode([decode_history_event(event)[0] for event in history])
    return train_walk_forward(columns, SALT, "fleet").model


def ask_about_week(model: TrainedModel, judged: Sequence[bytes]) -> AskedWeek:
    """Ask about every call of a week without attacks."""
    scorer = CallScorer(model, ChallengeBudget(), DOMAINS, CALLS_AT_ONCE)
    questions = list(as_questions(judged))
    rows = [row for row, question in enumerate(questions) if question.type in CALL_TYPES]
    calls, announced = [questions[row] for row in rows], as_parts(replay_week(model, judged)[0][rows])
    by_model = sum(score.exceeds for score in scorer.score_many(calls))
    waiting = [call for call, score in zip(calls, scorer.score_many(calls, announced), strict=True) if score.exceeds]
    return AskedWeek(len(calls), by_model, len(waiting), _left_with_trust(scorer, waiting))


def _left_with_trust(scorer: CallScorer, waiting: Sequence[NativeEvent]) -> int:
    without_path = scorer.score_many(waiting, np.full((len(waiting), KINDS), True))
    left, trusted = 0, set()
    for call, score in zip(waiting, without_path, strict=True):
        path = (call.tenant, call.agent.issuer, call.agent.id), AccessPath.of_event(call)
        left += score.exceeds or path not in trusted
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
    """Calls of thieves that were asked about; shares are means over thieves.

    Attributes:
        thieves: that made any call.
        first: by `FIRST_CALLS`, shares that wait: by the snapshots alone; as it is; as it is, or held by
            the agent's level (medium or above).
        later: the same of the calls behind those.
        announced: thieves whose network passed for announced at one of their calls.
    """

    thieves: int
    first: dict[int, tuple[float, float, float]]
    later: tuple[float, float, float]
    announced: int


def ask_about_thieves(model: TrainedModel, judged: Sequence[bytes], thief: Thief) -> AskedThieves:
    """Ask about each call of thieves of a fleet's identities."""
    made = rob(judged, choose_victims(judged), thief)
    questions = list(as_questions([line for line, _ in made]))
    announced, levels = replay_week(model, [line for line, _ in made])
    rows = [row for row, (_, stolen) in enumerate(made) if stolen and questions[row].type in CALL_TYPES]
    scorer, calls = CallScorer(model, ChallengeBudget(), DOMAINS, CALLS_AT_ONCE), [questions[row] for row in rows]
    by_model = np.array([score.exceeds for score in scorer.score_many(calls)])
    waits = np.array([score.exceeds for score in scorer.score_many(calls, as_parts(announced[rows]))])
    flags = np.stack([by_model, waits, waits | (levels[rows] >= risk_levels.MEDIUM)], axis=1)
    of_thief: dict[str, list[int]] = defaultdict(list)
    for place, call in enumerate(calls):
        of_thief[call.agent.id].append(place)
    places = list(of_thief.values())
    first = {number: _mean_shares(flags, [own[:number] for own in places]) for number in FIRST_CALLS}
    later = _mean_shares(flags, [own[FIRST_CALLS[-1] :] for own in places])
    network = as_parts(announced[rows])[:, 0]
    return AskedThieves(len(places), first, later, sum(bool(network[own].any()) for own in places))


def choose_victims(judged: Sequence[bytes]) -> list[str]:
    """The first agents that are busy enough."""
    calls = Counter(event["agent"]["id"] for line in judged if (event := json.loads(line))["type"] in CALL_TYPES)
    return sorted(agent for agent, count in calls.items() if count >= LEAST_CALLS)[:VICTIMS]


def _mean_shares(flags: NDArray[np.bool_], places: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    shares = [flags[list(own)].mean(axis=0) for own in places if own]
    by_model, waits, held = np.mean(shares, axis=0).tolist() if shares else (0.0, 0.0, 0.0)
    return by_model, waits, held


def report_fleet(size: FleetSize, tenants: int, seed: int, tell: Callable[[str], None]) -> None:
    """Tell the figures of one fleet, honest and robbed."""
    history, judged = split_fleet(size, seed, TENANTS[:tenants])
    model = train_fleet(history)
    week = ask_about_week(model, judged)
    by_model, waiting, trusted = (1_000.0 * count / week.calls for count in week[1:])
    tell(
        f"fleet {seed}, {size.agents} agents, {tenants} tenants: of {week.calls} calls {waiting:.1f} of 1,000 wait, "
        f"{by_model:.1f} by snapshots alone, {trusted:.1f} where a person trusts new access paths"
    )
    for thief in THIEVES:
        asked = ask_about_thieves(model, judged, thief)
        shares = {**{f"first {number}": found for number, found in asked.first.items()}, "later": asked.later}
        waits = ", ".join(f"{name} {a:.2f} / {b:.2f} / {c:.2f}" for name, (a, b, c) in shares.items())
        network = f"network of {asked.announced} announced"
        tell(f"  {thief.name}, {asked.thieves} ({network}): by snapshots / as it is / with level: {waits}")


def main() -> None:
    """Figures of fleets, one after the other."""
    agents, tenants, pace, *seeds = map(int, sys.argv[1:])
    for seed in seeds:
        report_fleet(FleetSize(agents, pace, LEARNED_DAYS), tenants, seed, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
