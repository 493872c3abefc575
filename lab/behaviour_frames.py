"""Habits of agents from their events, learned quantities from their state, and how two of them differ."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_kernel import scope_keys
from trustwatch.ingest.features.feature_table import QUANTITIES
from trustwatch.ingest.features.frequency_tables import scope_row
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.state_version import state_version
from trustwatch.scoring.records.agents import AgentName, AgentRow

from .event_history import AgentReference, EventFilter, EventHistory
from .frame_builder import build_frame, build_frame_from_columns
from .session import LabError, LabSession
from .store_frames import find_agent

HABIT_KINDS = ("action", "target", "audience", "scopes", "principal", "network", "credential", "peer", "hour")


def profile(session: LabSession, agent: AgentReference, *, tenant: str | None = None) -> pd.DataFrame:
    """An agent's usual pace, volumes and pauses as the service has learned them, beside those of its peers.

    Raises:
        LabError: no such agent; or its state was written under another layout or salt, and can not be read.
    """
    name = find_agent(session, agent, tenant).name
    row = session.store.agents.get(name.tenant, name.issuer, name.agent_id)
    assert row is not None
    model, event = None, None
    with suppress(LabError):  # without a model or events the peers are left out
        model = session.model().trained
        event = _first_typed_event(session, name)
    numbers = _state_numbers(row, model)
    peers = {} if model is None or event is None else _peer_values(model, event)
    return build_frame(
        "profile", [_profile_row(quantity, numbers, peers.get(quantity)) for quantity in sorted(QUANTITIES)]
    )


def _first_typed_event(session: LabSession, name: AgentName) -> NativeEvent | None:
    """An event that says what an agent's peer group is."""
    events = EventHistory(session.settings).events(EventFilter(agent=(name.tenant, name.issuer, name.agent_id)))
    return next((record.event for record in events if record.event.agent.type), None)


def _state_numbers(row: AgentRow, model: TrainedModel | None) -> Any:
    if model is not None and row.state_version.split(":")[0] != state_version(model.salt).split(":")[0]:
        raise LabError(
            "the agent's state was written under another model's salt or by another version: retrain, or wait"
        )
    try:
        return np.frombuffer(row.features, layout.STATE_ROW)[0]["numbers"]
    except ValueError:
        raise LabError("the agent's state was written by another version of Trustwatch") from None


def _peer_values(model: TrainedModel, event: NativeEvent) -> dict[int, float]:
    """Usual value of each quantity in the peer group of an event's agent."""
    keys = np.zeros(layout.SCOPES, np.uint64)
    scope_keys(keys, ColumnEncoder(model.salt).encode([event]).names[0])
    at = scope_row(model.baseline, keys[layout.PEERS])
    if at < 0:
        return {}
    counts, means = model.baseline.numbers[at], model.baseline.means[at]
    return {
        quantity: math.expm1(float(means[quantity])) for quantity in range(layout.QUANTITIES) if counts[quantity] > 0
    }


def _profile_row(quantity: int, numbers: Any, peers: float | None) -> tuple[Any, ...]:
    """The usual value of a quantity and one standard deviation around it, which are learned as logarithms."""
    about = QUANTITIES[quantity]
    count = float(numbers[layout.N_COUNT + quantity])
    if not count:
        return about.label, about.unit, None, None, None, peers, count
    mean = float(numbers[layout.N_MEAN + quantity])
    spread = math.sqrt(max(float(numbers[layout.N_VAR + quantity]), 0.0))
    low = max(math.expm1(mean - spread), 0.0)
    return about.label, about.unit, math.expm1(mean), low, math.expm1(mean + spread), peers, count


def habits(events: pd.DataFrame, kinds: Collection[str] = HABIT_KINDS) -> pd.DataFrame:
    """Actions, targets, scopes, hours, … of a frame `events`, by kind, the most frequent first."""
    unknown = set(kinds) - set(HABIT_KINDS)
    if unknown:
        raise LabError(f"no such kind of habit: {', '.join(sorted(unknown))}; there are {', '.join(HABIT_KINDS)}")
    parts = [_habits_of_kind(events, kind) for kind in kinds]
    table = pd.concat(parts, ignore_index=True) if parts else None
    if table is None or not len(table):
        return build_frame("habits", ())
    return build_frame_from_columns(
        "habits",
        {
            **{name: table[name] for name in ("kind", "item", "events", "share")},
            **{name: _time_values(table[name]) for name in ("first", "last")},
        },
    )


def _habit_items(events: pd.DataFrame, kind: str) -> pd.Series:
    """The item of a kind that each event has, as text; missing where it has none."""
    if kind == "hour":
        return events["time"].dt.hour.map("{:02d}:00 UTC".format).astype("str")
    if kind == "scopes":
        chosen = events["scopes_requested"].where(events["scopes_requested"] != "", events["scopes_granted"])
        return chosen.map(lambda text: " ".join(sorted(text.split()))).replace("", pd.NA)
    if kind == "network":
        numbered = events["asn"].map(lambda asn: f"AS{asn}", na_action="ignore")
        return numbered.astype("object").fillna(events["client_ip"].replace("", pd.NA).astype("object"))
    if kind == "target":
        chosen = events["target"].where(events["target"] != "", events["resource_id"])
        return chosen.replace("", pd.NA)
    column = {"principal": "principal_id"}.get(kind, kind)
    return events[column].astype("object").replace("", pd.NA)


def _habits_of_kind(events: pd.DataFrame, kind: str) -> pd.DataFrame:
    table = pd.DataFrame({"item": _habit_items(events, kind), "time": events["time"]}).dropna(subset=["item"])
    grouped = table.groupby("item", observed=True)["time"].agg(["size", "min", "max"]).reset_index()
    grouped.columns = ["item", "events", "first", "last"]
    grouped["kind"] = kind
    grouped["share"] = grouped["events"] / max(len(table), 1)
    return grouped.sort_values(["events", "item"], ascending=[False, True])


def comparison(a: pd.DataFrame, b: pd.DataFrame, kinds: Collection[str] = HABIT_KINDS) -> pd.DataFrame:
    """Two frames `events` (two agents, two versions, two weeks) item by item, the largest differences first."""
    habits_a, habits_b = (habits(events, kinds)[["kind", "item", "events", "share"]] for events in (a, b))
    for side in (habits_a, habits_b):
        side["kind"] = side["kind"].astype("object")
    both = habits_a.merge(habits_b, on=["kind", "item"], how="outer", suffixes=("_a", "_b")).fillna(
        {"events_a": 0, "events_b": 0, "share_a": 0.0, "share_b": 0.0}
    )
    both["difference"] = both["share_b"] - both["share_a"]
    both = both.assign(size=both["difference"].abs()).sort_values(
        ["size", "kind", "item"], ascending=[False, True, True]
    )
    return build_frame_from_columns(
        "comparison",
        {
            "kind": both["kind"],
            "item": both["item"],
            "events_a": both["events_a"].astype("int64"),
            "events_b": both["events_b"].astype("int64"),
            "share_a": both["share_a"],
            "share_b": both["share_b"],
            "difference": both["difference"],
        },
    )


def distances(comparison: pd.DataFrame) -> pd.DataFrame:
    """The distance between the two sides of a frame `comparison` by kind, the most different first."""
    rows = []
    for kind, part in comparison.groupby("kind", observed=True):
        a, b = part["share_a"].to_numpy(), part["share_b"].to_numpy()
        rows.append(
            (
                kind,
                jensen_shannon(a, b),
                int(((a > 0) & (b == 0)).sum()),
                int(((b > 0) & (a == 0)).sum()),
                int(((a > 0) & (b > 0)).sum()),
            )
        )
    return build_frame("distances", sorted(rows, key=lambda row: (-row[1], row[0])))


def versions(events: pd.DataFrame) -> pd.DataFrame:
    """Versions of agents and when they were at work, of a frame `events`; by agent, the oldest first."""
    version = ["tenant", "agent_id", "agent_type", "agent_version"]
    table = events.dropna(subset=["agent_version"])[[*version, "time"]]
    table = table.assign(**{name: table[name].astype("object").fillna("") for name in version})
    grouped = table.groupby(version)["time"].agg(["size", "min", "max"]).reset_index()
    grouped = grouped.sort_values(["tenant", "agent_id", "min"])
    return build_frame_from_columns(
        "versions",
        {
            **{name: grouped[name] for name in version},
            "events": grouped["size"],
            "first": _time_values(grouped["min"]),
            "last": _time_values(grouped["max"]),
        },
    )


def _time_values(times: Any) -> Any:
    return times.dt.as_unit("ms").astype("int64") if len(times) else ()


def largest_upgrade(versions: pd.DataFrame) -> pd.Series:
    """The change of version with the most events on its smaller side: `agent_id`, `tenant`, `before`, `after`, `at`."""
    best: dict[str, Any] | None = None
    for _, part in versions.groupby(["tenant", "agent_id"], observed=True):
        rows = part.to_dict("records")
        for before, after in pairwise(rows):
            least = min(before["events"], after["events"])
            if best is None or least > best["least"]:
                best = {
                    "agent_id": after["agent_id"],
                    "tenant": after["tenant"],
                    "before": before["agent_version"],
                    "after": after["agent_version"],
                    "at": after["first"],
                    "least": least,
                }
    if best is None:
        raise LabError("no agent changed its version in these events: widen since and until")
    return pd.Series(best)


def jensen_shannon(a: Any, b: Any) -> float:
    """Jensen-Shannon distance (base 2, in [0, 1]) of two lists of shares of the same items.

    >>> jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    1.0
    """
    if not a.sum() or not b.sum():
        return float(bool(a.sum()) != bool(b.sum()))
    p, q = a / a.sum(), b / b.sum()
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / m), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / m), 0.0).sum()
    return math.sqrt(max((float(left) + float(right)) / 2, 0.0))
