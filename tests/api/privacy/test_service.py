"""The desk of erasures where something is in its way: one file, one process, one database that was put back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.http.agent_lookup import AgentResolver
from trustwatch.api.http.auth.callers import AuthenticatedCaller, SourceBinding
from trustwatch.api.http.store_executor import StoreExecutor
from trustwatch.api.privacy.embedded_targets import ErasureSummary, LocalArchives
from trustwatch.api.privacy.erasure_proof import ProofSigner
from trustwatch.api.privacy.service import ErasureRequest, ErasureService
from trustwatch.api.privacy.topic_targets import BrokerClients, TopicErasureTargets
from trustwatch.api.settings.access_settings import EventSourceSettings
from trustwatch.ingest.archive.archive_files import write_positions
from trustwatch.ingest.errors import ConfigError, Fenced
from trustwatch.ingest.identities import PrivacyKey, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.topics.protocols import TopicNames
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.erasures import Erasure, PartitionErasure
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

AS = "https://as"
KEY = PrivacyKey(b"k" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_store(sqlite_url(tmp_path / "store.db"))) as made:
        yield made


class Anywhere:
    """Places of which a test says what they do; nothing is found anywhere."""

    keeps_name = True

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.refuses: set[str] = set()
        self.ordered = 0

    async def write_order(self, made: Erasure, record: object) -> Erasure:
        self.ordered += 1
        return msgspec.structs.replace(made, at_offset=0)

    async def waiting_for(self, made: Erasure, now_ms: int) -> str:
        return ""

    async def acknowledged(self, made: Erasure) -> Erasure:
        return made

    async def erase(self, made: Erasure) -> dict[str, int]:
        self._may("erase")
        return {}

    async def remaining(self, made: Erasure) -> dict[str, int]:
        return {}

    async def not_checked(self, now_ms: int) -> list[str]:
        return []

    async def summary(self, made: Erasure, now_ms: int) -> ErasureSummary:
        return ErasureSummary({})

    async def assist(self, now_ms: int) -> list[Erasure]:
        self._may("assist")
        return []

    async def release_names(self, now_ms: int) -> list[Erasure]:
        self._may("release_names")
        return []

    def _may(self, what: str) -> None:
        if what in self.refuses:
            raise ConfigError(f"{what}: x.parquet is damaged")


def desk(places: Any) -> ErasureService:
    async def forgotten(subject: ErasureSubject, _ordered_ms: int) -> None:
        pass

    signer = ProofSigner(lambda document, kind: "a.b.c", lambda proof, kind: {})
    sources: Any = None
    executor = StoreExecutor()
    agents = AgentResolver(RiskView(), places.store, executor)
    return ErasureService(
        places, sources, agents, executor, None, lambda: KEY, lambda: signer, forgotten, lambda: 1000, on_server=True
    )


def ask(erasures: ErasureService, name: str) -> Erasure:
    """An agent that somebody who is bound to all tenants wants to be erased."""
    caller = AuthenticatedCaller(
        "https://as", "who", "who", frozenset(), 0.0, SourceBinding(EventSourceSettings("who", ("*",)))
    )
    return asyncio.run(erasures.request_erasure(caller, ErasureRequest("agent", name, "acme", AS), "why"))


def looks(made: ErasureService, times: int = 8) -> None:
    async def look() -> None:
        for _ in range(times):
            await made._advance_all()

    asyncio.run(look())


@pytest.mark.parametrize("what", ["assist", "release_names"])
def test_what_is_open_waits_for_no_chore(store: SqlStore, what: str) -> None:
    """A damaged archive of this process, or a finished erasure that cannot be looked after, holds up nobody."""
    places = Anywhere(store)
    places.refuses.add(what)
    made = desk(places)
    asked = ask(made, "one")
    looks(made)

    assert getattr(store.erasures.get(asked.erasure_id), "status", "") == "done"


def test_an_erasure_says_why_it_does_not_go_on(store: SqlStore) -> None:
    """Whoever asks for it reads what has to be mended; then it goes on."""
    places = Anywhere(store)
    places.refuses.add("erase")
    made = desk(places)
    asked = ask(made, "one")
    looks(made)
    held: Any = store.erasures.get(asked.erasure_id)
    places.refuses.clear()
    looks(made)

    assert (held.status, held.error) == ("erasing", "erase: x.parquet is damaged")
    assert getattr(store.erasures.get(asked.erasure_id), "status", "") == "done"


class Seat:
    """Of a leader that slept: another one has it when the step is over."""

    def __init__(self, checks: int) -> None:
        self._checks = checks

    def ensure_held(self) -> None:
        self._checks -= 1
        if self._checks < 0:
            raise Fenced("gone")

    def release(self) -> None:
        pass


def test_who_lost_the_seat_in_a_step_writes_nothing(store: SqlStore) -> None:
    """Its step may be hours old; the next leader does it again."""
    made = desk(Anywhere(store))
    seat: Any = Seat(2)  # as the look begins, and as the step does
    made._seat.lock = seat
    asked = ask(made, "one")
    looks(made, 1)

    assert store.erasures.get(asked.erasure_id) == asked


def test_a_leader_that_slept_overwrites_no_proof(store: SqlStore) -> None:
    """What another one has done since the erasure was read stays, down to the signature."""
    slow, quick = desk(Anywhere(store)), desk(Anywhere(store))
    asked = ask(slow, "one")
    looks(quick)
    proved: Any = store.erasures.get(asked.erasure_id)

    assert (proved.status, proved.proof) == ("done", b"a.b.c")
    assert not asyncio.run(slow._advance(asked))
    assert store.erasures.get(asked.erasure_id) == proved


def test_an_order_that_is_met_again_is_marked_again(store: SqlStore) -> None:
    """The back-up has no mark of the agent, which would go on from the model's history at the next start."""
    who = ErasureSubject("agent", "acme", AS, "one", "erased~1")
    at = store.partitions.claim(0)
    met = PartitionErasure("E1", who, 0, 500, True)
    store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [], [], erasures=[met]))
    begun: Any = store.erasures.get("E1")
    looks(desk(Anywhere(store)))
    done: Any = store.erasures.get("E1")

    assert (begun.status, begun.subject_digest) == ("waiting", "")
    assert store.erasures.list_marks() == [KEY.erasure_mark(unkeyed_agent_key(*who.agent_identity))]
    assert (done.status, len(done.subject_digest)) == ("done", 64)


class Log:
    """Of one partition."""

    partitions = 1

    async def run_between_rounds(self, act: Any) -> Any:
        return act(self)


class Reader:
    """Of a topic whose retention has removed everything before an offset."""

    def __init__(self, first: int) -> None:
        self._first = first

    def first_offsets(self) -> dict[tuple[str, int], int]:
        return {("trustwatch.events", 0): self._first}

    def at_end(self) -> bool:
        return True

    def close(self) -> None:
        pass


def on_topic(store: SqlStore, local: LocalArchives, first: int = 100) -> TopicErasureTargets:
    log: Any = Log()
    brokers: Any = BrokerClients(TopicNames(), lambda topic: Reader(first), lambda: None)  # type: ignore[arg-type, return-value]
    return TopicErasureTargets(store, log, brokers, local, frozenset({"events"}))


def test_a_finished_erasure_that_can_not_be_looked_after_keeps_no_other(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why its identifier is still kept; the others' go, and the topics that nobody looked at are named."""
    local = LocalArchives(store, {}, "t.events", tmp_path / "spool", "here", lambda: None, 1 << 40)
    places, at = on_topic(store, local), store.partitions.claim(0)
    who = [ErasureSubject("agent", "acme", AS, name, f"erased~{name}") for name in ("one", "two")]
    mets = [PartitionErasure(one.name, one, number, 500, True) for number, one in enumerate(who)]
    store.commit(Commit(at, Position(0, at.epoch, 2), [], [], [], [], erasures=mets))
    for one in store.erasures.list_open():
        counts = {"topic": {"offsets": {"0": 1}}}
        assert store.erasures.update(one, msgspec.structs.replace(one, status="done", counts=counts))

    async def end(made: Erasure, up_to: object) -> int:
        if made.subject == "one":
            raise ConfigError("the risk topic may not be written")
        return 0

    monkeypatch.setattr(places, "_correct_risk_topic", end)
    over = asyncio.run(places.release_names(1000))
    held: Any = store.erasures.get("one")

    assert [one.erasure_id for one in over] == ["two"]
    assert getattr(store.erasures.get("two"), "subject", None) == ""
    assert (held.subject, held.error) == ("one", "the identifier is still kept: the risk topic may not be written")
    unseen = asyncio.run(places.not_checked(1000))
    assert unseen[0].split(",")[0] == "the topic trustwatch.events"
    assert len(unseen) == 4


def test_a_damaged_file_holds_up_one_tenant(store: SqlStore, tmp_path: Path) -> None:
    """Whose erasure says which file; the other one, of another tenant, is carried out in the archive."""
    pytest.importorskip("pyarrow")
    folder = tmp_path / "archive"
    day = folder / "date=2025-11-24" / "tenant=acme"
    day.mkdir(parents=True)
    (day / "events-0-00000000000000000000-00000000000000000001.parquet").write_bytes(b"PAR1 no more")
    write_positions(folder, "t.events", {0: 10})
    local = LocalArchives(store, {"events": folder}, "t.events", tmp_path / "spool", "here", lambda: None, 1 << 40)
    places = on_topic(store, local)
    at = store.partitions.claim(0)
    who = [ErasureSubject("agent", tenant, AS, "one", f"erased~{tenant}") for tenant in ("acme", "globex")]
    mets = [PartitionErasure(f"E{number}", one, number, 500, True) for number, one in enumerate(who)]
    store.commit(Commit(at, Position(0, at.epoch, 2), [], [], [], [], erasures=mets))
    made: dict[str, Any] = {one.erasure_id: one for one in store.erasures.list_open()}
    passed = asyncio.run(places.assist(1000))
    told = {name: asyncio.run(places.waiting_for(one, 1000)) for name, one in made.items()}

    assert [one.erasure_id for one in passed] == ["E0", "E1"]
    assert told["E1"] == ""
    assert "waits for archives" in told["E0"]
    assert "parquet: cannot be read" in told["E0"]
    for path in day.iterdir():
        path.unlink()
    local._retry_at.clear()  # half a minute later
    assert asyncio.run(places.waiting_for(made["E0"], 1000)) == ""


@pytest.mark.parametrize("times", [(500, 700), (700, 500), (500, 500)])
def test_an_order_that_two_leaders_logged_is_one(store: SqlStore, tmp_path: Path, times: tuple[int, int]) -> None:
    """The one that lost its seat had logged it too, by a clock of its own: whichever is met last, nothing waits for
    ever, and the name is kept until the topic is past both."""
    local = LocalArchives(store, {}, "t.events", tmp_path / "spool", "here", lambda: None, 1 << 40)
    places, at = on_topic(store, local, first=15), store.partitions.claim(0)
    places.expected = frozenset()
    store.erasures.add(Erasure("E1", "agent", "waiting", "acme", AS, "one", "s", "d", "why", "who", 1, at_ms=times[0]))

    def meet(offset: int, at_ms: int) -> None:
        met = PartitionErasure("E1", ErasureSubject("agent", "acme", AS, "one", "erased~1"), offset, at_ms, True)
        before = store.partitions.list_positions()[0]
        store.commit(Commit(before, Position(0, at.epoch, offset + 1), [], [], [], [], erasures=[met]))

    def waits() -> str:
        return asyncio.run(places.waiting_for(store.erasures.list_open()[0], 1000))

    assert "waits for the workers" in waits()
    meet(10, times[0])
    assert waits() == ""
    meet(20, times[1])
    assert waits() == ""
    (made,) = store.erasures.list_open()
    done = msgspec.structs.replace(asyncio.run(places.acknowledged(made)), status="done")
    assert store.erasures.update(made, done)
    assert asyncio.run(places.release_names(1 << 40)) == []  # the second order, which names it, is in the topic still
    places.brokers = places.brokers._replace(reader=lambda _: Reader(21))  # type: ignore[arg-type, return-value]
    assert [one.erasure_id for one in asyncio.run(places.release_names(1 << 40))] == ["E1"]
    assert store.erasures.erased_in_topic() == []


def test_a_round_is_never_taken_for_the_one_before(store: SqlStore) -> None:
    """Though the clock went back in between: an order of the round before is not what is waited for."""
    made = desk(Anywhere(store))
    asked = ask(made, "one")
    before = msgspec.structs.replace(asked, at_ms=1 << 50, rounds=1)

    after = asyncio.run(made._queued(before))

    assert after is not None
    assert after.at_ms == (1 << 50) + 1


def test_what_was_done_long_ago_is_not_walked_at_every_look(store: SqlStore, tmp_path: Path) -> None:
    """Each process looks every second: after the first time at what is open, of the last hours, or not done here."""
    pytest.importorskip("pyarrow")
    folder = tmp_path / "archive"
    write_positions(folder, "t.events", {0: 1})
    local = LocalArchives(store, {"events": folder}, "t.events", tmp_path / "spool", "here", lambda: None, 1 << 40)
    places, at = on_topic(store, local), store.partitions.claim(0)
    who = [ErasureSubject("agent", "acme", AS, name, f"erased~{name}") for name in ("E0", "E1", "E2")]
    mets = [PartitionErasure(one.name, one, number, 500, True) for number, one in enumerate(who)]
    store.commit(Commit(at, Position(0, at.epoch, 3), [], [], [], [], erasures=mets))
    for one in store.erasures.list_open()[:2]:
        assert store.erasures.update(one, msgspec.structs.replace(one, status="done", updated_ms=600))

    def assisted(now_ms: int) -> list[str]:
        return [one.erasure_id for one in asyncio.run(places.assist(now_ms))]

    assert assisted(1 << 40) == ["E0", "E1", "E2"]  # a process that was away, whose archive has E0 behind it alone
    assert assisted(1 << 40) == ["E1", "E2"]
    write_positions(folder, "t.events", {0: 3})
    assert assisted(1 << 40) == ["E1", "E2"]
    assert assisted(1 << 40) == ["E2"]  # which is open
    standing = local.erasure_progress(store.erasures.list_with_positions()[1][0], 1 << 40)
    assert (len(standing.done), standing.awaited) == (1, {})
