"""Events and labels as frames, and the windows that they are asked for by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.backtest.plan import read_labels

from .event_history import (
    AgentReference,
    EventHistory,
    HistoryEvent,
    HistorySource,
    build_event_filter,
    timestamp_of,
)
from .frame_builder import build_frame
from .session import DEFAULT_ROW_LIMIT, LabError, LabSession


def events(
    session: LabSession,
    agent: AgentReference = None,
    *,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    version: str | None = None,
    agent_type: str | None = None,
    source: HistorySource = "auto",
    limit: int = DEFAULT_ROW_LIMIT,
) -> pd.DataFrame:
    """Events of a window by event time, each once; *source* is auto, log, archive, kafka, or files and folders."""
    event_filter = build_event_filter(session, agent, tenant, since, until)._replace(
        version=version, types=None if agent_type is None else (agent_type,)
    )
    return build_frame(
        "events", EventHistory(session.settings, source).newest(event_filter, limit, EventRowBuilder().row)
    )


def last_hours(session: LabSession, hours: float = 24.0) -> dict[str, Any]:
    """The last *hours* up to the full hour behind the newest event, as `since` and `until`: `**last_hours(session)`."""
    newest_ms = max((summary.last_seen_ms for summary in session.agent_summaries()), default=0)
    if not newest_ms:
        raise LabError("no agent has done anything yet: the store is empty")
    until_ms = (newest_ms // HOUR_MS + 1) * HOUR_MS
    return {"since": timestamp_of(until_ms - int(hours * HOUR_MS)), "until": timestamp_of(until_ms)}


def window_around(row: pd.Series, minutes: float) -> dict[str, Any]:
    """So many *minutes* before and after the time of a row, as `since` and `until`."""
    margin = pd.Timedelta(minutes=minutes)
    return {"since": row["time"] - margin, "until": row["time"] + margin}


def labels(session: LabSession, path: str | Path | None = None) -> pd.DataFrame:
    """Labels of events, of a file as `trustwatch simulate --labels` writes it; default: `labels.jsonl` of the data."""
    file = label_file(session, path, required=True)
    rows = () if file is None else read_labels(file).labels
    return build_frame(
        "labels",
        [
            (
                label.id,
                label.tenant,
                label.agent_id,
                label.session,
                label.event_label != 0,
                label.session_label != 0,
                label.class_,
            )
            for label in rows
        ],
    )


def label_file(session: LabSession, path: str | Path | None, *, required: bool) -> Path | None:
    """A label file; by default the one in the data directory, if it is there."""
    chosen = Path(path) if path is not None else session.settings.data_dir / "labels.jsonl"
    if chosen.is_file():
        return chosen
    if required or path is not None:
        raise LabError(f"{chosen}: no labels; they are JSON lines as `trustwatch simulate --labels` writes")
    return None


def raw_events(events: pd.DataFrame) -> Iterator[bytes]:
    """The records of a frame `events`, in order of event time. Raises LabError for a frame that has none."""
    if "raw" not in events.columns:
        raise LabError(
            "the frame has no column `raw`: pass what `frames.events(session)` returned, with rows left out at most"
        )
    return iter(events.sort_values("time", kind="stable")["raw"].tolist())


class EventRowBuilder:
    """Makes rows of events; equal texts become one object, since most names repeat."""

    _MAX_TEXTS = 200_000

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def row(self, record: HistoryEvent) -> tuple[Any, ...]:
        """Values of the frame `events`, in the order of its columns."""
        texts = self._texts
        if len(texts) > self._MAX_TEXTS:
            texts.clear()
        return tuple(
            [texts.setdefault(value, value) if type(value) is str else value for value in _event_values(record)]
        )


def _event_values(record: HistoryEvent) -> tuple[Any, ...]:
    event, agent = record.event, record.event.agent
    resource, scopes, client, credential = event.resource, event.scopes, event.client, event.credential
    return (
        record.time_ms,
        record.received_ms,
        event.id,
        event.source,
        event.type,
        event.tenant,
        agent.issuer,
        agent.id,
        agent.type,
        agent.version,
        agent.self_asserted,
        event.principal and event.principal.id,
        " <- ".join(event.delegation or ()),
        event.task,
        event.action,
        event.effect,
        *(
            (None,) * 6
            if resource is None
            else (
                resource.type,
                resource.id,
                resource.target,
                resource.external,
                resource.audience,
                resource.provenance,
            )
        ),
        event.peer,
        " ".join((scopes and scopes.requested) or ()),
        " ".join((scopes and scopes.granted) or ()),
        event.outcome,
        event.status,
        event.error,
        event.bytes_in,
        event.bytes_out,
        event.duration_ms,
        client and client.ip,
        client and client.asn,
        None if credential is None else " ".join(filter(None, (credential.method, credential.thumbprint))),
        credential and credential.token_lifetime_s,
        event.session,
        event.trace_id,
        record.raw,
    )
