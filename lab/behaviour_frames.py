"""What agents do: habits from their events, learned quantities from their state, and how two differ."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..ingest.columns import ColumnEncoder
from ..ingest.events import NativeEvent
from ..ingest.features import layout
from ..ingest.features.feature_kernel import scope_keys
from ..ingest.features.feature_table import QUANTITIES
from ..ingest.features.frequency_tables import scope_row
from ..models.trained_model import TrainedModel
from ..scoring.engine.agent_state_cache import state_version
from ..scoring.records.agents import AgentRow
from .frame_builder import build_frame, build_frame_from_columns
from .session import LabError

HABIT_KINDS = ("action", "target", "audience", "scopes", "principal", "network", "credential", "peer", "hour")


def profile_frame(row: AgentRow, model: TrainedModel | None, event: NativeEvent | None) -> Any:
    """The frame `profile`: learned quantities of an agent beside its peer group's.

    Args:
        row: of the store.
        model: whose baseline knows the peers; None leaves them out.
        event: one of the agent's, which says what its peer group is.

    Raises:
        LabError: the state was written under another layout or salt, and can not be read.
    """
    if model is not None and row.state_version.split(":")[0] != state_version(model.salt).split(":")[0]:
        raise LabError(
            "the agent's state was written under another model's salt or by another version: retrain, or wait"
        )
    try:
        numbers = np.frombuffer(row.features, layout.STATE_ROW)[0]["numbers"]
    except ValueError:
        raise LabError("the agent's state was written by another version of Trustwatch") from None
    peers = _peer_values(model, event)
    rows = []
    for quantity, told in sorted(QUANTITIES.items()):
        count = float(numbers[layout.N_COUNT + quantity])
        mean, spread = (
            float(numbers[layout.N_MEAN + quantity]),
            math.sqrt(max(float(numbers[layout.N_VAR + quantity]), 0.0)),
        )
        own = (math.expm1(mean), math.expm1(mean - spread), math.expm1(mean + spread)) if count else (None,) * 3
        low = None if own[1] is None else max(own[1], 0.0)
        rows.append((told.label, told.unit, own[0], low, own[2], peers.get(quantity), count))
    return build_frame("profile", rows)


def _peer_values(model: TrainedModel | None, event: NativeEvent | None) -> dict[int, float]:
    """Usual value of each quantity in the peer group of an event's agent."""
    if model is None or event is None:
        return {}
    keys = np.zeros(layout.SCOPES, np.uint64)
    scope_keys(keys, ColumnEncoder(model.salt).encode([event]).names[0])
    at = scope_row(model.baseline, keys[layout.PEERS])
    if at < 0:
        return {}
    known = model.baseline.numbers[at] > 0
    return {q: math.expm1(float(model.baseline.means[at, q])) for q in range(layout.QUANTITIES) if known[q]}


def _habit_items(events: Any, kind: str) -> Any:
    """What each event has of a kind, as texts; missing where it has none."""
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


def habits_frame(events: Any, kinds: Collection[str] = HABIT_KINDS) -> Any:
    """The frame `habits` of a frame `events`, by kind, the most frequent first."""
    unknown = set(kinds) - set(HABIT_KINDS)
    if unknown:
        raise LabError(f"no such kind of habit: {', '.join(sorted(unknown))}; there are {', '.join(HABIT_KINDS)}")
    parts = [_habits_of_kind(events, kind) for kind in kinds]
    found = pd.concat(parts, ignore_index=True) if parts else None
    if found is None or not len(found):
        return build_frame("habits", ())
    return build_frame_from_columns(
        "habits",
        {
            **{name: found[name] for name in ("kind", "item", "events", "share")},
            **{name: (found[name].dt.as_unit("ms").astype("int64")) for name in ("first", "last")},
        },
    )


def _habits_of_kind(events: Any, kind: str) -> Any:
    table = pd.DataFrame({"item": _habit_items(events, kind), "time": events["time"]}).dropna(subset=["item"])
    grouped = table.groupby("item", observed=True)["time"].agg(["size", "min", "max"]).reset_index()
    grouped.columns = ["item", "events", "first", "last"]
    grouped["kind"] = kind
    grouped["share"] = grouped["events"] / max(len(table), 1)
    return grouped.sort_values(["events", "item"], ascending=[False, True])


def comparison_frame(a: Any, b: Any, kinds: Collection[str] = HABIT_KINDS) -> Any:
    """The frame `comparison` of two frames `events`, the largest differences first."""
    ours, theirs = (habits_frame(one, kinds)[["kind", "item", "events", "share"]] for one in (a, b))
    for side in (ours, theirs):
        side["kind"] = side["kind"].astype("object")
    both = ours.merge(theirs, on=["kind", "item"], how="outer", suffixes=("_a", "_b")).fillna(
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


def distances_frame(comparison: Any) -> Any:
    """The frame `distances` of a frame `comparison`, the most different first."""
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


def versions_frame(events: Any) -> Any:
    """The frame `versions` of a frame `events`, by agent, the oldest first."""
    who = ["tenant", "agent_id", "agent_type", "agent_version"]
    table = events.dropna(subset=["agent_version"])[[*who, "time"]]
    table = table.assign(**{name: table[name].astype("object").fillna("") for name in who})
    grouped = table.groupby(who)["time"].agg(["size", "min", "max"]).reset_index()
    grouped = grouped.sort_values(["tenant", "agent_id", "min"])
    return build_frame_from_columns(
        "versions",
        {
            **{name: grouped[name] for name in who},
            "events": grouped["size"],
            "first": _time_values(grouped["min"]),
            "last": _time_values(grouped["max"]),
        },
    )


def _time_values(times: Any) -> Any:
    return times.dt.as_unit("ms").astype("int64") if len(times) else ()


def largest_upgrade(versions: Any) -> Any:
    """The change of version of a frame `versions` with the most events on its smaller side. Raises LabError."""
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
