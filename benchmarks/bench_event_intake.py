"""Events at the door: processor time of a body of 500 events until it is ready to be committed.

Ours judges batches by compiled code; the baseline is the reference path, which decodes every record. Processor time of
the thread, so that other work on the machine counts little. Target: cut and judged in 3 µs per event at most. Exit
status 1 if it is missed; `--quick` only reports.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.events.intake import EventIntake
from trustwatch.api.events.intake_limits import IntakeLimits
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.service.serve import GC_THRESHOLD
from trustwatch.api.settings.access_settings import EventSourceSettings
from trustwatch.ingest.formats.bodies import parse_body
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.source import Record

from .events import raw_events
from .harness import arguments, finish, machine, table

AGENTS, PER_BODY, TARGET_US = 10_000, 500, 3.0
BINDING = SourceBinding(EventSourceSettings("bench", ("*",), ("*",), ("*",), trusted=True))


class CpuTimes(NamedTuple):
    """Microseconds of processor time per event."""

    split: float
    judged: float
    received: float


def admit_one_by_one(admission: Admission, bodies: list[bytes], now_ms: int) -> CpuTimes:
    """The reference path: cut bodies into records and admit each; identities are looked at one at a time."""
    split = judged = 0.0
    seen: set[int] = set()
    for body in bodies:
        begun = time.thread_time()
        parcels = parse_body("application/x-ndjson", {}, body)
        split += time.thread_time() - begun
        records: list[Record] = []
        for parcel in parcels:
            record = admission.admit(parcel, BINDING, now_ms)
            if record.id_hash not in seen:
                seen.add(record.id_hash)
                records.append(record)
        judged += time.thread_time() - begun
    return CpuTimes(*(1e6 * seconds / (PER_BODY * len(bodies)) for seconds in (split, judged, judged)))


async def admit_batches(bodies: list[bytes], now_ms: int, folder: Path) -> CpuTimes:
    """Our door, with a log behind it; the commit runs in a thread of its own and counts as far as the loop's part."""
    log, numbers = EventLog(folder), count()
    commit = GroupCommit(log)
    limits = IntakeLimits(lambda: 0, 10**9, time.monotonic)
    admission = Admission(AgentRegistry(()))
    door = EventIntake(commit, admission, limits, lambda: now_ms / 1000, lambda: f"bench-{next(numbers)}")
    split = judged = 0.0
    for body in bodies:  # agents become known
        door._admission.admit(parse_body("application/x-ndjson", {}, body), BINDING, now_ms)
    begun = time.thread_time()
    for body in bodies:
        door._admission.admit(parse_body("application/x-ndjson", {}, body), BINDING, now_ms)
    judged = time.thread_time() - begun
    begun = time.thread_time()
    for body in bodies:
        parse_body("application/x-ndjson", {}, body)
    split = time.thread_time() - begun
    begun = time.thread_time()
    for body in bodies:
        receipt = await door.receive(parse_body("application/x-ndjson", {}, body), BINDING)
        if receipt.accepted != PER_BODY:
            raise SystemExit(f"only {receipt.accepted} of {PER_BODY} events were accepted")
    received = time.thread_time() - begun
    await commit.close()
    log.close()
    return CpuTimes(*(1e6 * seconds / (PER_BODY * len(bodies)) for seconds in (split, judged, received)))


def main() -> int:
    """Both take turns; medians."""
    given = arguments(__doc__ or "")
    rounds, events = (2, 5_000) if given.quick else (7, 50_000)
    raws = raw_events(events, AGENTS, 2000.0)
    bodies = [b"\n".join(raws[start : start + PER_BODY]) for start in range(0, len(raws), PER_BODY)]
    now_ms = int(time.time() * 1000)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    turns: list[tuple[CpuTimes, CpuTimes]] = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            reference = admit_one_by_one(Admission(AgentRegistry(())), bodies, now_ms)
            turns.append((asyncio.run(admit_batches(bodies, now_ms, Path(name) / str(number))), reference))
    ours, baseline = (CpuTimes(*map(statistics.median, zip(*found, strict=True))) for found in zip(*turns, strict=True))
    ratio = statistics.median(b.judged / a.judged for a, b in turns)
    columns = ("door", "cut into records, µs", "cut and judged, µs", "all on the event loop, µs")
    table(
        f"processor time per event, bodies of {PER_BODY}",
        columns,
        [("ours", *ours), ("one by one", *baseline[:2], "-")],
    )
    print(f"\none by one / ours, cut and judged: {ratio:.2f} (target for ours: at most {TARGET_US:g} µs)")
    finish(
        machine("msgspec", "numba"),
        {"ratio": ratio, "ours": ours._asdict(), "reference": baseline._asdict()},
        given.json,
    )
    return int(not given.quick and ours.judged > TARGET_US)


if __name__ == "__main__":
    sys.exit(main())
