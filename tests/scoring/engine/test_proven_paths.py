"""Access paths that agents prove: when a part counts as known, and all that does not make it so."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.events import EVENT_TYPES
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.row_observations import IGNORED_EVENT
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.engine import proven_paths, risk_levels
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.proven_paths import (
    CHAIN,
    CREDENTIAL,
    MAX_PARTS,
    NETWORK,
    PART,
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
        numbers = np.zeros((1, layout.NUMBERS), np.float32)
        numbers[0, layout.N_SHARED] = told.get("shared", 100)
        numbers[0, [layout.N_SEEN + KIND_OF[kind] for kind in KIND_OF]] = told.get("seen", 50)
        proven = np.zeros(1, np.uint8)
        proven_paths.advance(
            np.array([0]),
            np.array([0], np.int32),
            self.parts,
            names,
            codes,
            np.array([told.get("flag", 0)], np.uint8),
            np.array([new_kinds], np.uint32),
            numbers,
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


def test_the_first_path_of_a_newcomer_is_proven_at_once(trial: Trial) -> None:
    """Of an agent that the model does not know; its second chain is on trial, and a known agent's first network is."""
    newcomer = {"shared": 0, "seen": 0}
    trial.seen = {(kind, name) for kind in range(3) for name in (*OLD, NEW)}  # without a history nothing is new
    trial.event(0, OLD, **newcomer)
    trial.event(0.1, path_with(CHAIN), **newcomer)
    assert trial.names() == set(enumerate(OLD))
    known, asserted, suspicious = Trial(), Trial(), Trial()
    known.event(0, OLD, seen=0)
    asserted.event(0, OLD, asserted=True, **newcomer)
    suspicious.event(0, OLD, level=MEDIUM, **newcomer)
    assert known.names() == asserted.names() == suspicious.names() == frozenset()


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
    own = [event for event in make.stream(2, 30 * count) if event["agent"]["id"] == f"agent-{agent}"][:count]
    assert len(own) == count
    start = make.START_MS + 10 * DAY_MS
    return [
        {**event, **members, "time": make.event(0, agent, start + at * HOUR_MS)["time"]} for at, event in enumerate(own)
    ]


class Shown(NamedTuple):
    """An engine in which agent 1 has shown a new network for some hours, with the path that it proved, if any."""

    engine: Engine
    row: AgentRow
    proven: frozenset[tuple[int, int]]


def show(kit: Any, make: Any, hours: int) -> Shown:
    engine = Engine(kit.model, EngineSettings(capacity=50))
    columns = kit.columns([*days(make, 2, 1), *days(make, 1, hours, client={"asn": 65_001})])
    scored = engine.score(columns)
    assert (scored.levels[1:, 1] == LOW).all()
    rows = {row.name.agent_id: row for row in engine.agent_states.changed_rows()}
    assert rows["agent-2"].proven_paths == b""
    return Shown(engine, rows["agent-1"], frozenset({(NETWORK, int(columns.names[1, event_columns.NETWORK]))}))


def resumed(kit: Any, row: AgentRow) -> bytes:
    """What a worker publishes of an agent whose row it took over."""
    heir = Engine(kit.model, EngineSettings(capacity=50), OneRow(row))
    slot = heir.agent_states.find_slot(row.name.identity)
    assert slot is not None
    return heir.agent_states.rows(np.array([slot], np.int32))[0].proven_paths


def test_what_an_agent_proves_is_stored_and_taken_over(kit: Any, make: Any) -> None:
    """By the next worker, on trial or proven; not of damaged rows, nor of those of before, nor under another salt."""
    on_trial, proven = show(kit, make, 20), show(kit, make, 30)

    assert proven_names(on_trial.row.proven_paths) == frozenset() != on_trial.row.proven_paths
    assert proven_names(proven.row.proven_paths) == proven.proven
    for shown in (on_trial, proven):
        assert resumed(kit, shown.row) == shown.row.proven_paths
    for damaged in (b"", b"junk", b"\xff" * PART.itemsize):
        assert resumed(kit, msgspec.structs.replace(proven.row, proven_paths=damaged)) == b""
    assert resumed(kit, msgspec.structs.replace(proven.row, state_version="other:version")) == b""


def test_another_model_of_the_salt_takes_it_over_and_an_erasure_ends_it(kit: Any, make: Any) -> None:
    engine, row, proven = show(kit, make, 30)
    engine.use_model(kit.model)
    slot = engine.agent_states.find_slot(row.name.identity)
    assert slot is not None and proven_names(pack(engine.agents.paths[[slot]])[0]) == proven
    assert slot is not None

    engine.agent_states.erase(ErasureSubject("agent", *row.name.identity, "erased-1"))

    assert (engine.agents.paths["state"] == proven_paths.FREE).all()


def test_a_release_does_not_bring_back_what_suspicion_ended(trial: Trial) -> None:
    """Behind medium the trial is a whole one, whoever ended the suspicion."""
    for hour in range(26):
        trial.event(hour, path_with(NETWORK))
    trial.event(26, level=MEDIUM)
    for hour in range(27, 50):
        trial.event(hour, path_with(NETWORK))
    assert trial.names() == frozenset()
    trial.event(51, path_with(NETWORK))
    assert trial.names() == {(NETWORK, NEW)}
