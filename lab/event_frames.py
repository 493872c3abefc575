"""Events and labels as frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ..scoring.backtest.plan import read_labels
from .event_history import HistoryEvent, parse_time_ms
from .frame_builder import build_frame


class EventRowBuilder:
    """Makes rows of events; equal texts become one object, since most names repeat."""

    _MAX_TEXTS = 200_000

    def __init__(self) -> None:
        self._texts: dict[Any, Any] = {}

    def row(self, found: HistoryEvent) -> tuple[Any, ...]:
        """Values of the frame `events`, in the order of its columns."""
        known = self._texts
        if len(known) > self._MAX_TEXTS:
            known.clear()
        return tuple([known.setdefault(value, value) if type(value) is str else value for value in _values(found)])


def events_frame(rows: Sequence[tuple[Any, ...]]) -> Any:
    """The frame `events`."""
    return build_frame("events", rows)


def _values(found: HistoryEvent) -> tuple[Any, ...]:
    event, agent = found.event, found.event.agent
    resource, scopes, client, credential = event.resource, event.scopes, event.client, event.credential
    return (
        found.time_ms,
        found.received_ms,
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
        found.raw,
    )


def labels_frame(path: Path | None) -> Any:
    """The frame `labels` of a label file."""
    found = () if path is None else read_labels(path).labels
    return build_frame(
        "labels",
        [
            (one.id, one.tenant, one.agent_id, one.session, one.event_label != 0, one.session_label != 0, one.class_)
            for one in found
        ],
    )


def timestamp_of(at_ms: int) -> Any:
    """A timestamp of UTC milliseconds."""
    return pd.Timestamp(at_ms, unit="ms", tz="UTC")


def datetime_of(at: Any) -> datetime | None:
    """A datetime with an offset, of what `moment` takes."""
    at_ms = parse_time_ms(at)
    if at_ms is None:
        return None
    found: datetime = timestamp_of(at_ms).to_pydatetime()
    return found


def minutes_delta(number: float) -> Any:
    """So many minutes."""
    return pd.Timedelta(minutes=number)


def labelled_revocations_frame(revoked: Any, labels: Any, times: Mapping[str | None, int]) -> Any:
    """The frame `judged`.

    Args:
        revoked: frame `backtest_revoked`, with the column `policy` or without.
        labels: frame `labels`; None = nobody knows.
        times: time of each bad event by its id, UTC milliseconds.
    """
    first: dict[tuple[str, str], int] = {}
    if labels is not None:
        for one in labels[labels["bad_event"]].itertuples():
            at_ms = times.get(one.id)
            who = (one.tenant, one.agent_id)
            if at_ms is not None:
                first[who] = min(at_ms, first.get(who, at_ms))
    rows = []
    for one in revoked.itertuples():
        bad_ms, at_ms = first.get((one.tenant, one.agent_id)), parse_time_ms(one.at) or 0
        delay = None if bad_ms is None else (at_ms - bad_ms) / 1000.0
        attacked = None if labels is None else bad_ms is not None
        rows.append((getattr(one, "policy", None), one.tenant, one.agent_id, at_ms, one.level, attacked, bad_ms, delay))
    return build_frame("judged", rows)
