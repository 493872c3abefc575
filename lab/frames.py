"""Small functions for notebooks: the store and events as pandas frames; `replays` and `charts` have the others.

Frames have the columns of the store's tables, or the members of events and back-test results. Times
are UTC timestamps and levels ordered categories, regardless of how they are stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_args, get_origin
from warnings import warn

from .session import EXTRA_MISSING, LabError, LabSession, LabWarning, is_extra_installed

if not is_extra_installed():
    raise ImportError(EXTRA_MISSING)

import msgspec
import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from trustwatch.api.agents.service import read_baseline_profile
from trustwatch.api.brokers import TOPIC_PREFIX
from trustwatch.api.cli.history_input import WindowedSource, history_files
from trustwatch.api.cli.topic_input import TimeWindow
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.log.segment_import import first_offset, is_log
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.database import visible
from trustwatch.scoring.store.decision_store import IS_READABLE
from trustwatch.scoring.store.read_scope import ReadScope, reads_of
from trustwatch.scoring.store.sql_schema import AGENTS, DECISIONS, METADATA

if TYPE_CHECKING:
    from trustwatch.scoring.store.database import AnySelect

ROW_LIMIT = 100_000
"""Rows of a frame, unless a call specifies otherwise; a `LabWarning` is issued if there were more."""
LEVELS: Final = [level.label for level in RiskLevel]

_HISTORY_BATCH = 1_000
_LEVEL_COLUMNS = ("level", "level_before", "previous_level", "before", "after")
_TIME_TEXTS = ("at", "until", "start")

Agent: TypeAlias = str | pd.Series | None
"""An agent: its id, or a row of a frame that has `tenant`, `issuer` and `agent_id`; None = all."""


# The store.


def read(session: LabSession, query: str | AnySelect, limit: int = ROW_LIMIT) -> pd.DataFrame:
    """Read a table of the store by name (all but its blobs), or a SELECT of `scoring.store.sql_schema`'s tables.

    A session of some tenants reads nothing of others: a SELECT must restrict each table to them, else it is refused.
    """
    query = _rows_of(session, query) if isinstance(query, str) else query
    return _cut(_fetch(session, query.limit(limit + 1)), limit)


def _fetch(session: LabSession, query: AnySelect) -> pd.DataFrame:
    database = session.store.database
    with reads_of(ReadScope(session.tenants)), database.read() as connection:
        return typed(pd.read_sql(query, connection))


def _rows_of(session: LabSession, name: str, *blobs: str) -> AnySelect:
    if name not in METADATA.tables:
        raise LabError(f"no table {name!r}; there are {', '.join(sorted(METADATA.tables))}")
    table = METADATA.tables[name]
    columns = [column for column in table.c if column.name in blobs or column.type.python_type is not bytes]
    query = table.select().with_only_columns(*columns)
    return visible(query, table.c.tenant, session.tenants) if "tenant" in table.c else query


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert times to timestamps, named without their unit, and levels to ordered categories."""
    for name in frame.columns:
        if name.endswith("_ms"):
            times = pd.to_datetime(frame[name].where(frame[name] > 0), unit="ms", utc=True)
            frame[name] = times.astype("datetime64[ms, UTC]")
        elif name in _TIME_TEXTS:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
        elif name in _LEVEL_COLUMNS:
            words = [LEVELS[int(level)] if isinstance(level, int | np.number) else level for level in frame[name]]
            frame[name] = pd.Categorical(words, LEVELS, ordered=True)
    stems = {name: name.removesuffix("_ms") for name in frame.columns}
    return frame.rename(
        columns={name: f"{stem}_at" if stem != name and stem in stems else stem for name, stem in stems.items()}
    )


def _cut(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    if len(frame) > limit:
        warn(f"more than {limit:,} rows, {limit:,} are here: narrow or raise limit", LabWarning, stacklevel=3)
    return frame.head(limit)


def agents(session: LabSession, limit: int = ROW_LIMIT) -> pd.DataFrame:
    """Return agents with their risk as of `evaluated`. `reason` is the strongest."""
    query = _rows_of(session, "agents", "reasons").order_by(AGENTS.c.tenant, AGENTS.c.agent_id, AGENTS.c.issuer)
    return _with_reason(read(session, query, limit))


def decisions(session: LabSession, limit: int = ROW_LIMIT) -> pd.DataFrame:
    """Return changes of level, oldest first, at most the newest *limit*. `time` is the time of the event."""
    query = _rows_of(session, "decisions", "reasons", "evidence").where(IS_READABLE)
    newest = read(session, query.order_by(DECISIONS.c.event_time_ms.desc(), DECISIONS.c.decision_id.desc()), limit)
    newest["signals"] = [" ".join(msgspec.json.decode(one).get("signals", ())) for one in newest.pop("evidence")]
    return _with_reason(newest.iloc[::-1].reset_index(drop=True).rename(columns={"event_time": "time"}))


def _with_reason(frame: pd.DataFrame) -> pd.DataFrame:
    found = [msgspec.json.decode(reasons) for reasons in frame.pop("reasons")]
    return frame.assign(reason=[reasons[0]["text"] if reasons else "" for reasons in found])


def of_agent(frame: pd.DataFrame, agent: Agent, tenant: str | None = None) -> pd.DataFrame:
    """Return the rows of one agent, in any frame that names agents."""
    for column, value in zip(("tenant", "issuer", "agent_id"), _identity(agent, tenant), strict=True):
        if value is not None and column in frame:
            frame = frame[frame[column] == value]
    return frame


def _identity(agent: Agent, tenant: str | None) -> tuple[str | None, str | None, str | None]:
    if agent is None or isinstance(agent, str):
        return tenant, None, agent
    return tenant or agent.get("tenant"), agent.get("issuer"), agent.get("agent_id")


def worst_decision(decisions: pd.DataFrame) -> pd.Series:
    """Return the row of `decisions` to look at first: the highest level, hard signals first, then risk."""
    by_events = decisions[decisions["cause"] == "event"]
    if by_events.empty:
        raise LabError("no event has changed a level here: widen the window, or look at `frames.agents(session)`")
    ranked = by_events.assign(hard=by_events["signals"] != "").sort_values(["level", "hard", "risk_score"])
    return ranked.iloc[-1]


def find_peer(agents: pd.DataFrame, agent: pd.Series) -> pd.Series:
    """Return the other agent of the same tenant and type with the lowest risk in a frame `agents`."""
    row = of_agent(agents, agent).iloc[0]
    same = (agents["tenant"] == row["tenant"]) & (agents["agent_type"] == row["agent_type"])
    peers = agents[same & (agents["agent_id"] != row["agent_id"])]
    if peers.empty:
        raise LabError(f"{row['agent_id']} is the only agent of type {row['agent_type']!r} in its tenant")
    return peers.sort_values(["level", "risk_score", "events"], ascending=[True, True, False]).iloc[0]


def reasons(session: LabSession, decision: str | pd.Series) -> pd.DataFrame:
    """Return the reasons of a decision (an ID or a row of `decisions`), the strongest first."""
    return pd.DataFrame(map(msgspec.to_builtins, find_decision(session, decision).reasons))


def find_decision(session: LabSession, decision: str | pd.Series) -> Decision:
    decision_id = decision if isinstance(decision, str) else str(decision["decision_id"])
    stored = session.store.decisions.get(decision_id, session.tenants)
    if stored is None:
        raise LabError(f"no decision {decision_id!r} in the store; `frames.decisions(session)` lists them")
    return stored


def profiles(session: LabSession, *agents: pd.Series) -> pd.DataFrame:
    """Return the pace and volumes of agents (rows of frames) that the service learned, with one deviation around."""
    parts = []
    for agent in agents:
        names = [AGENTS.c[name] == agent[name] for name in ("tenant", "issuer", "agent_id")]
        row = next(_fetch(session, _rows_of(session, "agents", "features").where(*names)).itertuples(), None)
        profile = read_baseline_profile(row)
        if profile is None:
            raise LabError(f"no state of agent {agent['agent_id']!r} in the store that this version can read")
        parts.append(pd.DataFrame(profile.usual).assign(agent=agent["agent_id"]))
    return pd.concat(parts, ignore_index=True)


# Events, by the readers of `trustwatch train` and `trustwatch backtest`.


@contextmanager
def open_history(session: LabSession, window: TimeWindow, source: str | Path | None) -> Iterator[list[Path]]:
    """Yield the files with the events of a source, which may extend beyond the window."""
    with history_files([str(source or _own_source(session))], session.settings, window) as paths:
        yield paths


def _own_source(session: LabSession) -> str | Path:
    """Return the events topic if brokers are configured, else the log, or the archive if the log has lost its start."""
    settings = session.settings
    if settings.distributed:
        return TOPIC_PREFIX
    log, archive = settings.data_dir / "log", settings.archive.directory
    if is_log(log) and (archive is None or first_offset(log) == 0):
        return log
    if archive is None:
        raise LabError(f"{log}: no event log, and no archive: name source=")
    return archive


def as_window(since: Any, until: Any) -> TimeWindow:
    """Parse bounds as pandas does. Bounds without an offset are UTC."""
    stamps = [None if at is None else pd.Timestamp(at) for at in (since, until)]
    zoned = [at and (at.tz_localize("UTC") if at.tzinfo is None else at.tz_convert("UTC")) for at in stamps]
    return TimeWindow(*(at and at.to_pydatetime() for at in zoned))


def events(
    session: LabSession,
    agent: Agent = None,
    *,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    source: str | Path | None = None,
    limit: int = ROW_LIMIT,
) -> pd.DataFrame:
    """Return the events of a window by event time, each once, at most the newest *limit*. `raw` is the record as sent.

    *source* is a file, an archive, an event log or a topic, as for `trustwatch backtest`; None = the service's own.
    """
    kept: deque[tuple[NativeEvent, bytes]] = deque(maxlen=limit)
    identity, matching, window = _identity(agent, tenant), 0, as_window(since, until)
    with open_history(session, window, source) as paths:
        for event, raw in _distinct_events(WindowedSource(FileSource(paths), window)):
            if _is_wanted(session, event, identity):
                matching += 1
                kept.append((event, raw))
    if matching > limit:
        warn(f"{matching:,} events match, the last {limit:,} are here: narrow or raise limit", LabWarning, 2)
    rows = [_event_values(event) for event, _ in kept]
    frame = pd.DataFrame(rows, columns=_EVENT_COLUMNS).assign(raw=[raw for _, raw in kept])
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    names = ["tenant", "issuer", "agent_type"]
    frame[names] = frame[names].fillna("")  # as the store has them
    return frame.sort_values("time", kind="stable", ignore_index=True)


def _distinct_events(source: WindowedSource) -> Iterator[tuple[NativeEvent, bytes]]:
    duplicates = DuplicateWindow()
    while (batch := source.poll(_HISTORY_BATCH, 0.0)) is not None:
        hashes = np.array([raw_id_hash(record.payload) for record in batch.records], np.uint64)
        offsets = batch.base_offset + np.arange(len(hashes), dtype=np.int64)
        for record, seen in zip(batch.records, duplicates.mark(hashes, offsets).tolist(), strict=True):
            with suppress(MalformedEvent):  # it is among the dead letters
                if not seen:
                    yield decode_history_event(record.payload)[0], record.payload


def _is_wanted(session: LabSession, event: NativeEvent, wanted: Sequence[str | None]) -> bool:
    identity = (event.tenant or "", event.agent.issuer or "", event.agent.id)
    is_shown = session.tenants is None or identity[0] in session.tenants
    return is_shown and all(want in (None, have) for want, have in zip(wanted, identity, strict=True))


def struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct that a member's type is, lists, or makes optional, or None for plain values."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    types = (plain, *get_args(plain))
    return next((one for one in types if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _event_members(kind: Any = NativeEvent, *path: str) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(kind):
        inner = struct_in(field.type)
        if inner is None:
            yield (*path, field.name)
        else:
            yield from _event_members(inner, *path, field.name)


_EVENT_MEMBERS = tuple(_event_members())
_EVENT_COLUMNS = [{"agent_issuer": "issuer"}.get(name, name) for name in map("_".join, _EVENT_MEMBERS)]


def _event_values(event: NativeEvent) -> list[Any]:
    values = (reduce(lambda part, name: part and getattr(part, name), path, event) for path in _EVENT_MEMBERS)
    return [" ".join(map(str, value)) if isinstance(value, tuple | list) else value for value in values]


def last_hours(session: LabSession, hours: float = 24.0) -> dict[str, Any]:
    """Return the last *hours* to the full hour after the newest event, as `since` and `until` of a window."""
    query = _rows_of(session, "agents").order_by(AGENTS.c.last_seen_ms.desc()).limit(1)
    newest = _fetch(session, query)["last_seen"]
    if newest.empty:
        raise LabError("no agent has done anything yet: the store is empty")
    until = newest[0].floor("h") + pd.Timedelta(hours=1)
    return {"since": until - pd.Timedelta(hours=hours), "until": until}


def within(frame: pd.DataFrame, since: Any = None, until: Any = None) -> pd.DataFrame:
    """Return the rows of a window by their `time`, without *until* itself."""
    after, before = as_window(since, until)
    kept = pd.Series(True, frame.index)
    if after is not None:
        kept &= frame["time"] >= after
    if before is not None:
        kept &= frame["time"] < before
    return frame[kept]


_HABITS = {
    "action": "action",
    "target": "resource_target",
    "audience": "resource_audience",
    "scopes": "scopes_requested",
    "principal": "principal_id",
    "network": "client_ip",
    "credential": "credential_thumbprint",
    "peer": "peer",
}


def habits(events: pd.DataFrame) -> pd.DataFrame:
    """Return shares of actions, targets, scopes, hours, … among events that have one: `kind`, `item`, `share`."""
    numbers = events["client_asn"].map("AS{:.0f}".format, na_action="ignore")
    networks = numbers.astype(object).fillna(events["client_ip"])
    items = events[list(_HABITS.values())].set_axis(list(_HABITS), axis="columns")
    items = items.assign(hour=events["time"].dt.strftime("%H:00 UTC"), network=networks)
    long = items.melt(var_name="kind", value_name="item").replace("", None).dropna()
    counts = long.value_counts(["kind", "item"]).rename("events").reset_index()
    return counts.assign(share=counts["events"] / counts.groupby("kind")["events"].transform("sum"))


def compare(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Compare habits of two frames `events` (two agents, versions or weeks), the largest differences first."""
    both = habits(a).merge(habits(b), on=["kind", "item"], how="outer", suffixes=("_a", "_b")).fillna(0)
    both = both.assign(difference=both["share_b"] - both["share_a"])
    return both.sort_values("difference", key=abs, ascending=False, kind="stable", ignore_index=True)


def distances(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the Jensen-Shannon distance of both sides by kind (0 equal, 1 disjoint), and what only one has."""
    rows = []
    for kind, part in comparison.groupby("kind"):
        a, b = part["events_a"] > 0, part["events_b"] > 0
        distance = jensenshannon(part["share_a"], part["share_b"], base=2) if a.any() and b.any() else 1.0
        rows.append((kind, distance, (a & ~b).sum(), (b & ~a).sum(), (a & b).sum()))
    frame = pd.DataFrame(rows, columns=["kind", "distance", "only_a", "only_b", "common"])
    return frame.sort_values("distance", ascending=False, ignore_index=True)


def largest_upgrade(events: pd.DataFrame) -> pd.Series:
    """Return the version change with most events on its smaller side: `before`, `agent_version`, `since`, …"""
    agent = ["tenant", "issuer", "agent_id"]
    times = events.dropna(subset="agent_version").groupby([*agent, "agent_version"], dropna=False)["time"]
    seen = times.agg(events="size", since="min").reset_index().sort_values("since")
    seen[["before", "events_before"]] = seen.groupby(agent, dropna=False)[["agent_version", "events"]].shift()
    seen["least"] = seen[["events", "events_before"]].min(axis="columns", skipna=False)
    if seen["least"].isna().all():
        raise LabError("no agent changed its version in these events: widen since and until")
    return seen.loc[seen["least"].idxmax()]
