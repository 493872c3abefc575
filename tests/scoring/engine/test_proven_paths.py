"""Access paths that agents prove: when a part counts as known, and all that does not make it so."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.events import EVENT_TYPES
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.row_observations import IGNORED_EVENT
from trustwatch.scoring.engine import proven_paths, risk_levels
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.proven_paths import (
    CHAIN,
    CREDENTIAL,
    MAX_PARTS,
    NETWORK,
    ON_TRIAL,
    PART,
    PROVEN,
    TRIAL_EVENTS,
    as_parts,
    find_proven,
    pack,
    proven_names,
    unpack,
)
from trustwatch.scoring.records.agents import AgentRow

KIND_OF = {NETWORK: layout.K_NETWORK, CREDENTIAL: layout.K_CREDENTIAL, CHAIN: layout.K_CHAIN}
OLD, NEW = (1, 2, 3), 77
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
LOW, MEDIUM = 1, 2


class Trial:
    """One agent, whose events are applied one by one; it knows the path OLD."""

    def __init__(self) -> None:
        self.parts, self.risks = proven_paths.allocate(1), risk_levels.allocate(1)
        self.seen = set(enumerate(OLD))

    def event(self, hour: float, path: tuple[int, ...] = OLD, **told: Any) -> list[bool]:
        """Apply an event; returns which parts of its path were proven before it."""
        names, codes = np.zeros((1, event_columns.NAMES), np.uint64), np.zeros((1, event_columns.CODES), np.int8)
        names[0, [event_columns.NETWORK, event_columns.CREDENTIAL, event_columns.CHAIN]] = path
        codes[0, event_columns.TYPE] = EVENT_TYPES.index(told.get("type", "tool.call"))
        codes[0, event_columns.OUTCOME] = told.get("outcome", event_columns.SUCCESS)
        codes[0, event_columns.SELF_ASSERTED] = told.get("asserted", False)
        new_kinds = sum(1 << KIND_OF[kind] for kind, name in enumerate(path) if (kind, name) not in self.seen)
        self.risks["at_ms"] = max(int(hour * HOUR_MS), int(self.risks["at_ms"][0]))
        before, after = told.get("before", LOW), told.get("level", LOW)
        proven = np.zeros(1, np.uint8)
        proven_paths.advance(
            np.array([0]),
            np.array([0], np.int32),
            self.parts,
            names,
            codes,
            np.array([told.get("flag", 0)], np.uint8),
            np.array([new_kinds], np.uint32),
            self.risks,
            np.array([float(before)]),
            np.array([after], np.int8),
            np.array([told.get("calm", True)]),
            told.get("learn", True),
            proven,
        )
        return [bool(flag) for flag in as_parts(proven)[0]]

    def names(self) -> frozenset[tuple[int, int]]:
        """What is published as proven."""
        return proven_names(pack(self.parts)[0])


@pytest.fixture
def trial() -> Trial:
    return Trial()


def path_with(kind: int, name: int = NEW) -> tuple[int, ...]:
    return tuple(name if at == kind else old for at, old in enumerate(OLD))


@pytest.mark.parametrize("kind", [NETWORK, CREDENTIAL, CHAIN])
def test_a_part_is_proven_after_a_day_of_calm_events(trial: Trial, kind: int) -> None:
    """Not before the day is over, and not by fewer events; then its later events find it proven, and no other part."""
    for hour in range(24):
        assert trial.event(hour, path_with(kind)) == [False] * 3
    assert trial.names() == frozenset()
    trial.event(24, path_with(kind))

    assert trial.names() == {(kind, NEW)}
    assert trial.event(24.1, path_with(kind)) == [at == kind for at in range(3)]
    assert trial.event(24.2, path_with(kind, NEW + 1)) == [False] * 3


def test_a_few_events_prove_nothing(trial: Trial) -> None:
    for number in range(TRIAL_EVENTS - 1):
        trial.event(3 * number, path_with(NETWORK))
    assert trial.names() == frozenset()
    trial.event(200, path_with(NETWORK))
    assert trial.names() == {(NETWORK, NEW)}


def test_an_announced_key_is_proven_at_once(trial: Trial) -> None:
    """The network that the announcement came by is not, nor a key that some other event names."""
    trial.event(0, (NEW, NEW, 3), type="client.change")
    assert trial.names() == {(CREDENTIAL, NEW)}
    trial.event(1, path_with(CREDENTIAL, NEW + 1), type="token.request")
    assert trial.names() == {(CREDENTIAL, NEW)}


@pytest.mark.parametrize("kind", [NETWORK, CREDENTIAL])
def test_who_works_beside_the_owner_proves_nothing(trial: Trial, kind: int) -> None:
    """A thief at half of the owner's pace stays new for a week; a chain replaces no other."""
    for number in range(500):
        trial.event(number / 3, OLD)
        if number % 2:
            trial.event(number / 3, path_with(kind))
            trial.event(number / 3, path_with(CHAIN))
    assert trial.names() == {(CHAIN, NEW)}


def test_counts_that_are_full_keep_their_proportion(trial: Trial) -> None:
    """Of very many events a thief's tenth does not become a half because numbers end somewhere."""
    trial.event(0, path_with(NETWORK))
    part = trial.parts[0, 0]
    part["events"], part["others"] = 6_000, 65_534
    for number in range(40):
        trial.event(48 + number, OLD if number % 4 else path_with(NETWORK))
    assert 2 * part["events"] < part["others"] and trial.names() == frozenset()


@pytest.mark.parametrize(
    "told", [{"asserted": True}, {"outcome": event_columns.DENIED}, {"flag": IGNORED_EVENT}, {"learn": False}]
)
def test_events_that_prove_nothing(trial: Trial, told: dict[str, Any]) -> None:
    """What no token vouches for, what failed, what we caused; and nothing where nothing is learned."""
    for hour in range(60):
        trial.event(hour, path_with(NETWORK), **told)
        trial.event(hour, path_with(CREDENTIAL), type="client.change", **told)
    assert trial.names() == frozenset()


def test_evidence_that_stands_against_the_agent_defers_it(trial: Trial) -> None:
    for hour in range(60):
        trial.event(hour, path_with(NETWORK), calm=False)
    assert trial.names() == frozenset()
    trial.event(60, path_with(NETWORK))
    assert trial.names() == {(NETWORK, NEW)}


def test_an_event_that_is_told_late_has_no_trial_behind_it(trial: Trial) -> None:
    """The agent's clock counts: a first event "of last week" does not make the next twenty enough."""
    trial.event(200, OLD)
    for number in range(2 * TRIAL_EVENTS):
        trial.event(number / 10, path_with(NETWORK))
    assert trial.names() == frozenset()


def test_a_flood_of_new_paths_is_bounded_and_pushes_out_no_proven_one(trial: Trial) -> None:
    for hour in range(26):
        trial.event(hour, path_with(NETWORK))
    for number in range(1_000):
        trial.event(30, path_with(CHAIN, 1_000 + number))
    assert (NETWORK, NEW) in trial.names()
    assert len(pack(trial.parts)[0]) == MAX_PARTS * PART.itemsize <= 144


class OneRow:
    """A store of one agent."""

    def __init__(self, row: AgentRow) -> None:
        self.row = row

    def load(self, keys: Any, owner: Any = None) -> dict[int, AgentRow]:
        return {self.row.name.key: self.row}

    def due(self, before_ms: int, limit: int, after: Any = None, partition: int = 0) -> list[Any]:
        return []

    def find_unkeyed(self, key: int) -> None:
        return None


class Step(NamedTuple):
    """A random event."""

    hour: float
    path: tuple[int, ...]
    told: dict[str, Any]


def random_steps(seed: int, count: int = 400) -> list[Step]:
    dice, hour, steps = np.random.default_rng(seed), 0.0, []
    for _ in range(count):
        hour += float(dice.exponential(0.8))
        path = tuple(int(name) for name in np.where(dice.random(3) < 0.7, (77, 88, 99), dice.integers(1, 6, 3)))
        told = {
            "type": "client.change" if dice.random() < 0.02 else "tool.call",
            "asserted": dice.random() < 0.1,
            "before": MEDIUM if dice.random() < 0.01 else LOW,
            "level": MEDIUM if dice.random() < 0.01 else LOW,
            "calm": dice.random() < 0.8,
        }
        steps.append(Step(hour, path, told))
    return steps


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_proven_at_medium_nor_by_events_that_nobody_vouches_for(seed: int) -> None:
    """Whatever happens: at medium or above all begins anew, asserted events change no trial below it, nothing but an
    announced key is proven within a day, and a restart in between changes nothing."""
    trial, twin, first, ever = Trial(), Trial(), dict[tuple[int, int], float](), set[tuple[int, int]]()
    for hour, path, told in random_steps(seed):
        before = trial.parts.copy()
        trial.event(hour, path, **told)
        twin.event(hour, path, **told)
        twin.parts = unpack(pack(twin.parts))
        suspicious = max(told["before"], told["level"]) >= MEDIUM
        if suspicious:
            first = dict.fromkeys(first, hour)
            assert trial.names() == frozenset()
        elif told["asserted"]:
            assert (trial.parts == before).all()
        if not told["asserted"]:
            for kind, name in enumerate(path):
                first.setdefault((kind, name), hour)
            for kind, name in trial.names() - proven_names(pack(before)[0]):
                assert told["type"] == "client.change" or hour - first[kind, name] >= 23.9
        ever |= trial.names()
        assert trial.names() == twin.names()
    assert ever


def test_damaged_bytes_are_nothing(trial: Trial) -> None:
    """What a later version, or nobody of ours, wrote proves nothing, and neither do the names of another salt."""
    for hour in range(26):
        trial.event(hour, path_with(NETWORK))
    kept = pack(trial.parts)[0]
    assert proven_names(b"") == proven_names(kept[:-1]) == proven_names(b"\xff" * PART.itemsize) == frozenset()
    names = np.zeros((2, event_columns.NAMES), np.uint64)
    names[0, event_columns.NETWORK], names[1, event_columns.NETWORK] = NEW, NEW + 1
    assert find_proven(names, (kept, kept)).tolist() == [[True, False, False], [False] * 3]


def days(make: Any, agent: int, count: int, **members: Any) -> list[dict[str, Any]]:
    """Ordinary events of an agent of the history, an hour apart."""
    made = make.stream(2, 30 * count, agents=24)
    own = [event for event in made if event["agent"]["id"] == make.event(0, agent)["agent"]["id"]][:count]
    assert len(own) == count
    start = make.START_MS + 10 * DAY_MS
    return [
        {**event, **members, "time": make.event(0, agent, start + at * HOUR_MS)["time"]} for at, event in enumerate(own)
    ]


def test_the_engine_publishes_what_an_agent_proves_and_another_one_takes_over(kit: Any, make: Any) -> None:
    """A network that is new to the agent is on trial, then proven, stored, and resumed by the next worker; other
    agents have nothing."""
    engine, client = Engine(kit.model, EngineSettings(capacity=50)), {"asn": 65_001, "ip": "198.51.100.7"}
    events = days(make, 1, 30, client=client)
    scored = engine.score(kit.columns([*days(make, 2, 1), *events]))
    slot = int(scored.slots[-1])
    rows = {row.name.agent_id: row for row in engine.agent_states.changed_rows()}

    own, other = rows[events[0]["agent"]["id"]], rows[days(make, 2, 1)[0]["agent"]["id"]]
    states = engine.agents.paths[slot]["state"]
    assert (scored.levels[:, 1] < risk_levels.MEDIUM).all()
    assert PROVEN in states or ON_TRIAL in states
    assert other.proven_paths == b"" and len(own.proven_paths) % PART.itemsize == 0
    heir = Engine(kit.model, EngineSettings(capacity=50), OneRow(own))
    taken = heir.agent_states.find_slot(own.name.identity)
    assert heir.agents.paths[taken].tolist() == engine.agents.paths[slot].tolist()
