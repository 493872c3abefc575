"""A body's way through the door: what is logged, what the receipt says, and whose turn it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from trustwatch.api.events.admission import Admission, AgentRegistry, dead_letter_record
from trustwatch.api.events.intake import (
    FIRST_SLICE_RECORDS,
    MAX_LISTED_REJECTIONS,
    SLICE_RECORDS,
    EventIntake,
    Receipt,
    Rejection,
)
from trustwatch.api.events.intake_limits import IntakeLimits
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.http.ledger import party_of
from trustwatch.api.settings.access_settings import EventSourceSettings
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import Record, RecordKind

from ...support.scan_records import WHOLE, changed, compact

NOW_MS = 1_772_500_000_000
ALL = SourceBinding(EventSourceSettings("all", ("*",), ("*",), ("*",), trusted=True))
ACME = SourceBinding(EventSourceSettings("acme", ("acme",), ("*",), ("*",), trusted=True))


class IntakeOnLog:
    """A door with a real log behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = EventLog(directory)
        numbers = count()
        self.commit = GroupCommit(self.log)
        self.door = EventIntake(
            self.commit,
            Admission(AgentRegistry(())),
            IntakeLimits(lambda: 0, 1_000_000, lambda: 0.0),
            lambda: NOW_MS / 1000,
            lambda: f"id-{next(numbers)}",
        )

    def logged(self) -> list[Record]:
        records: list[Record] = []
        with closing(LogReader(self.directory)) as reader:
            reader.seek(0, 0)
            while (batch := reader.poll(1000, 0.0)) is not None:
                records += batch.records
        return records

    async def close(self) -> None:
        await self.commit.close()
        self.log.close()


def one_by_one(bodies: list[list[RawRecord]], binding: SourceBinding) -> tuple[list[Record], list[Receipt]]:
    """What the door has to do, said in the plainest way."""
    admission, seen, records, receipts = Admission(AgentRegistry(())), set[int](), [], []
    for number, body in enumerate(bodies, 1):  # the door itself took the first id
        receipt, letters = Receipt(), []
        for index, parcel in enumerate(body):
            try:
                record = admission.admit(parcel, binding, NOW_MS)
            except (MalformedEvent, SourceNotAllowed) as error:
                letter = record_id(NOW_MS, "edge", f"id-{number}:{index}")
                receipt.reject(Rejection(index, error.path, error.reason, letter))
                record = dead_letter_record(letter, NOW_MS, party_of(binding), error.reason, error.path, parcel.raw)
                letters.append(record._replace(key=b""))  # the log on disk does not keep it
                continue
            if record.id_hash in seen:
                receipt.duplicate += 1
                continue
            seen.add(record.id_hash)
            receipt.accepted += 1
            records.append(record._replace(key=b""))
        records += letters
        receipts.append(receipt)
    return records, receipts


def bodies(seed: int, odd: float) -> Iterator[list[RawRecord]]:
    """Ten bodies with duplicates, wrong records, foreign tenants, and records that are not plain: *odd* of each."""
    draw, number = random.Random(seed), 0
    for size in (
        1,
        2,
        FIRST_SLICE_RECORDS,
        FIRST_SLICE_RECORDS + 1,
        SLICE_RECORDS,
        3 * SLICE_RECORDS + 5,
        7,
        500,
        300,
        20,
    ):
        body = []
        for _ in range(size):
            number += 1
            event = changed("id", f"evt-{number}") | {"action": draw.choice(("pay", "read"))}
            if draw.random() < odd:
                event |= draw.choice(
                    (
                        {"id": f"evt-{draw.randrange(number) + 1}"},
                        {"action": 7},
                        {"tenant": "globex"},
                        {"id": None},
                        {"id": f'"{number}"'},
                        {"tenant": None},
                        {"time": "2126-01-01T00:00:00Z"},
                    )
                )
            body.append(RawRecord(compact(event)))
        yield body


@pytest.mark.parametrize("binding", [ALL, ACME])
@pytest.mark.parametrize("odd", [0.0, 0.01, 0.6])
def test_bodies_are_taken_as_one_by_one(tmp_path: Path, binding: SourceBinding, odd: float) -> None:
    """Records in the log, their order, letters, receipts: as if each record were judged alone."""
    sent = list(bodies(5, odd))
    wanted, receipts = one_by_one(sent, binding)

    async def run() -> list[Receipt]:
        site = IntakeOnLog(tmp_path)
        found = [await site.door.receive(body, binding) for body in sent]
        again = await site.door.receive(sent[-3], binding, keep_refused=False)
        assert (again.accepted, again.duplicate) == (0, len(sent[-3]) - again.rejected)
        await site.close()
        assert site.logged() == wanted
        return found

    assert asyncio.run(run()) == receipts


def test_a_receipt_lists_a_hundred_rejections(tmp_path: Path) -> None:
    body = [RawRecord(compact(changed("id", f"e-{n}")) if n % 2 else b"{%d" % n) for n in range(600)]

    async def run() -> Receipt:
        site = IntakeOnLog(tmp_path)
        receipt = await site.door.receive(body, ALL)
        await site.close()
        assert sum(record.kind == RecordKind.DEAD for record in site.logged()) == 300
        return receipt

    receipt = asyncio.run(run())

    assert (receipt.accepted, receipt.rejected, receipt.rejections_omitted) == (300, 300, 300 - MAX_LISTED_REJECTIONS)
    assert [rejection.index for rejection in receipt.rejections] == list(range(0, 200, 2))


def test_bodies_take_turns(tmp_path: Path) -> None:
    """However many come at once, the event loop goes round between any two slices."""
    many, slices = 6, 5
    size = FIRST_SLICE_RECORDS + (slices - 1) * SLICE_RECORDS

    async def run() -> int:
        site = IntakeOnLog(tmp_path)
        await site.door.receive([RawRecord(compact(WHOLE))], ALL)
        turns, done = 0, asyncio.Event()

        async def answer() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        answering = asyncio.create_task(answer())
        sent = [[RawRecord(compact(changed("id", f"{body}-{n}"))) for n in range(size)] for body in range(many)]
        receipts = await asyncio.gather(*(site.door.receive(body, ALL) for body in sent))
        done.set()
        await answering
        await site.close()
        assert [receipt.accepted for receipt in receipts] == [size] * many
        return turns

    assert asyncio.run(run()) >= many * slices
