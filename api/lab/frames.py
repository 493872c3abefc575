"""Every frame of the lab, declared once: its columns, their types, units and meaning. `docs/notebooks.md` tells them.

Frames have these columns also where they have no rows. Times are `datetime64[ms, UTC]`. Names that repeat are
categoricals, levels ordered ones (`unknown` < `low` < … < `critical`). Missing values are NA, NaN or NaT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...ingest.features.table import FEATURES
from ...scoring.records import RiskLevel

LEVELS = tuple(level.label for level in RiskLevel)


class Column(NamedTuple):
    """One column. *kind* is a key of `KINDS`."""

    name: str
    kind: str
    meaning: str


KINDS: dict[str, str] = {
    "time": "datetime64[ms, UTC]",
    "name": "category",
    "level": "category",
    "text": "str",
    "number": "float64",
    "count": "int64",
    "whole": "Int64",
    "flag": "bool",
    "maybe": "boolean",
    "bytes": "object",
}
"""Kind of column -> dtype. `whole` and `maybe` may be missing, `level` is ordered."""

_WHO = (
    Column("tenant", "name", "tenant"),
    Column("issuer", "name", "issuer of the agent's tokens"),
    Column("agent_id", "name", "agent"),
    Column("agent_type", "name", "its type: the peer group, within the tenant"),
)
_SCORED = (
    Column("time", "time", "when it happened"),
    Column("id", "text", "id of the event"),
    *_WHO,
    Column("action", "name", "what was done"),
)
_ALERT_LEVEL = Column("level", "level", "level that an alert is raised at")
_SIDE = Column("side", "name", "A, or B where two models or policies are compared")

FRAMES: dict[str, tuple[Column, ...]] = {
    "agents": (
        *_WHO,
        Column("level", "level", "risk level now"),
        Column("risk_score", "number", "risk score, 0 to 1, as of `evaluated`"),
        Column("confidence", "number", "how well the agent is known, 0 to 1"),
        Column("anomaly_score", "number", "of its last event, 0 to 1; 0.5 is usual"),
        Column("events", "count", "events seen"),
        Column("first_seen", "time", "first event"),
        Column("last_seen", "time", "last event"),
        Column("evaluated", "time", "as of when the risk is told"),
        Column("reason", "text", "the strongest reason for the risk; empty = none"),
        Column("decision_id", "text", "decision that set the level; empty = none yet"),
    ),
    "decisions": (
        Column("time", "time", "when the level changed, in event time"),
        *_WHO,
        Column("previous_level", "level", "before"),
        Column("level", "level", "after"),
        Column("risk_score", "number", "0 to 1"),
        Column("confidence", "number", "0 to 1"),
        Column("anomaly_score", "number", "of the event, 0 to 1"),
        Column("p_value", "number", "of the event"),
        Column("cause", "name", "event, tick (time passed) or release (a person)"),
        Column("reason", "text", "the strongest reason"),
        Column("signals", "text", "hard signals that fired, blanks between: rules that need no statistics"),
        Column("counterfactual", "text", "what would have kept the level lower; empty = not known"),
        Column("mode", "name", "shadow or enforce"),
        Column("model_version", "name", "model that scored it"),
        Column("policy_version", "name", "token policy then"),
        Column("event_id", "text", "event that did it; empty = none did"),
        Column("decided", "time", "when it was decided, on the service's clock"),
        Column("decision_id", "text", "id"),
    ),
    "alerts": (
        Column("time", "time", "when the level rose, in event time"),
        *_WHO,
        Column("level", "level", "medium, high or critical"),
        Column("reason", "text", "the strongest reason"),
        Column("target", "name", "where it was sent; missing = no target took it"),
        Column("status", "name", "pending, delivered, failed, suppressed or dead; missing = no target took it"),
        Column("attempts", "whole", "tries of delivery"),
        Column("delivered", "time", "when it arrived"),
        Column("error", "text", "why it did not, or was held back"),
        Column("decision_id", "text", "the decision"),
    ),
    "events": (
        Column("time", "time", "when it happened"),
        Column("received", "time", "when it arrived; missing in files"),
        Column("id", "text", "id; empty = it has none"),
        Column("source", "name", "who told"),
        Column("type", "name", "token.request, tool.call, …"),
        *_WHO,
        Column("agent_version", "name", "version of the agent"),
        Column("self_asserted", "flag", "no token vouches for the agent's id"),
        Column("principal_id", "text", "on whose behalf"),
        Column("delegation", "text", "chain of actors, the current one first, joined by ` <- `"),
        Column("task", "name", "declared purpose"),
        Column("action", "name", "what was done"),
        Column("effect", "name", "read, write, delete, admin, unknown"),
        Column("resource_type", "name", "kind of resource"),
        Column("resource_id", "text", "resource"),
        Column("target", "text", "canonical destination"),
        Column("external", "maybe", "whether the target lies outside the tenant"),
        Column("audience", "name", "audience of the token"),
        Column("provenance", "name", "where the argument came from"),
        Column("peer", "name", "agent that was called or called"),
        Column("scopes_requested", "text", "scopes, blanks between"),
        Column("scopes_granted", "text", "scopes, blanks between"),
        Column("outcome", "name", "success, denied, error"),
        Column("status", "whole", "HTTP status"),
        Column("error", "text", "error"),
        Column("bytes_in", "number", "bytes sent to the tool"),
        Column("bytes_out", "number", "bytes returned"),
        Column("duration_ms", "number", "milliseconds"),
        Column("client_ip", "text", "address"),
        Column("asn", "whole", "network"),
        Column("credential", "text", "method and thumbprint of the key"),
        Column("token_lifetime_s", "number", "seconds"),
        Column("session", "text", "session"),
        Column("trace_id", "text", "trace"),
        Column("raw", "bytes", "the record as it was sent (JSON): what `train`, `scores` and `backtest` take"),
    ),
    "scores": (
        *_SCORED,
        Column("anomaly_score", "number", "0 to 1; 0.5 is usual, 0.75 is what one normal event in a hundred exceeds"),
        Column("p_value", "number", "share of normal events at least as odd"),
        Column("evidence", "number", "evidence that the event brought, natural log; below 0 it calms"),
        Column("statistic", "number", "gathered evidence after it, natural log: levels are thresholds of it"),
        Column("risk_score", "number", "risk of the agent after it, 0 to 1"),
        Column("level_before", "level", "level just before it"),
        Column("level", "level", "level after it"),
        Column("confidence", "number", "how well the agent was known, 0 to 1"),
    ),
    "vectors": (*_SCORED, *(Column(f.name, "number", f"{f.meaning} ({f.unit})") for f in FEATURES)),
    "risk_history": (
        Column("time", "time", "when"),
        Column("kind", "name", "event (replayed), decay (time passed) or decision (as the service recorded it)"),
        Column("risk_score", "number", "0 to 1"),
        Column("level", "level", "level then"),
        Column("action", "name", "of the event"),
        Column("cause", "name", "of the decision"),
        Column("reason", "text", "of the decision"),
        Column("decision_id", "text", "of the decision"),
    ),
    "reasons": (
        Column("code", "name", "which rule or feature"),
        Column("feature", "name", "feature or signal"),
        Column("observed", "text", "what was seen"),
        Column("usual", "text", "what is usual"),
        Column("contribution", "number", "share of what stood out, 0 to 1"),
        Column("text", "text", "the sentence that alerts show"),
    ),
    "contributions": (
        Column("feature", "name", "feature"),
        Column("family", "name", "family of the feature"),
        Column("value", "number", "value, in `unit`"),
        Column("unit", "name", "bits, z (standard deviations), flag, share, rank"),
        Column("evidence", "number", "decades (-log10 of how rare the value is), weighed"),
        Column("share", "number", "share of what stood out, 0 to 1"),
        Column("meaning", "text", "what it measures"),
    ),
    "profile": (
        Column("quantity", "name", "what is measured"),
        Column("unit", "name", "its unit"),
        Column("usual", "number", "the agent's usual value"),
        Column("low", "number", "one standard deviation below"),
        Column("high", "number", "one standard deviation above"),
        Column("peers", "number", "usual value of its peer group in the model"),
        Column("events", "number", "events behind it"),
    ),
    "habits": (
        Column("kind", "name", "action, target, audience, scopes, principal, network, credential, peer, hour"),
        Column("item", "text", "which one"),
        Column("events", "count", "events with it"),
        Column("share", "number", "of the events that have one of this kind"),
        Column("first", "time", "first event with it"),
        Column("last", "time", "last event with it"),
    ),
    "comparison": (
        Column("kind", "name", "as in `habits`"),
        Column("item", "text", "which one"),
        Column("events_a", "count", "events of A with it"),
        Column("events_b", "count", "events of B with it"),
        Column("share_a", "number", "of A's events of that kind"),
        Column("share_b", "number", "of B's"),
        Column("difference", "number", "share of B less that of A"),
    ),
    "distances": (
        Column("kind", "name", "as in `habits`"),
        Column("distance", "number", "Jensen-Shannon distance of the shares: 0 alike, 1 nothing in common"),
        Column("only_a", "count", "items that only A has"),
        Column("only_b", "count", "items that only B has"),
        Column("common", "count", "items of both"),
    ),
    "versions": (
        *_WHO[:1],
        *_WHO[2:],
        Column("agent_version", "name", "version"),
        Column("events", "count", "events of it"),
        Column("first", "time", "first of them"),
        Column("last", "time", "last of them"),
    ),
    "edges": (
        Column("kind", "name", "delegated, called, acts_for (a principal)"),
        Column("tenant", "name", "tenant"),
        Column("source", "name", "agent that acted"),
        Column("target", "name", "agent or principal"),
        Column("first", "time", "first seen"),
        Column("last", "time", "last seen, give or take an hour"),
        Column("risk", "number", "highest risk score of who acted, 0 to 1, as of `risk_time`"),
        Column("risk_time", "time", "when that was"),
    ),
    "blast_radius": (
        Column("depth", "count", "steps away"),
        Column("agent_id", "name", "agent reached"),
        Column("kind", "name", "delegated where every step was a delegation, else called"),
        Column("via", "name", "the agent before it"),
        Column("level", "level", "its own level; missing = never seen"),
        Column("first", "time", "first seen"),
        Column("last", "time", "last seen"),
        Column("risk", "number", "risk score of who acted over the last step"),
    ),
    "labels": (
        Column("id", "text", "id of the event"),
        Column("tenant", "name", "tenant"),
        Column("agent_id", "name", "agent"),
        Column("session", "text", "session"),
        Column("bad_event", "flag", "the event is bad"),
        Column("bad_session", "flag", "its session is"),
        Column("class", "name", "kind of attack"),
    ),
    "features": (
        Column("feature", "name", "feature"),
        Column("family", "name", "family"),
        Column("unit", "name", "unit"),
        Column("importance", "number", "weight of its evidence, 0 to 1"),
        Column("usual", "number", "median of its evidence in the history, decades"),
        Column("upper", "number", "90th percentile; more than that stands out"),
        Column("meaning", "text", "what it measures"),
    ),
    "groups": (
        Column("group", "text", "tenant and agent type; `fleet` is all; a hash where no such agent is in the store"),
        Column("events", "count", "events of the history"),
        Column("events_per_day", "number", "of an active agent"),
        Column("own_calibration", "flag", "whether it has history enough; else it is judged by the fleet's"),
        Column("medium", "number", "evidence at which the level begins, natural log"),
        Column("high", "number", "the same"),
        Column("critical", "number", "the same"),
    ),
    "calibration": (
        Column("group", "text", "as in `groups`"),
        Column("agents", "text", "known: those that the model's history shows; newcomers: all others"),
        Column("anomaly_score", "number", "0 to 1"),
        Column("p_value", "number", "what it means in that group"),
    ),
    "reliability": (
        Column("promised", "number", "p-value"),
        Column("observed", "number", "share of the scored events with at most that p-value"),
        Column("events", "count", "how many those are"),
        Column("low", "number", "where the share lies with 95 % if events were independent: lower end"),
        Column("high", "number", "upper end"),
    ),
    "promise": (
        _ALERT_LEVEL,
        Column("budget", "number", "alerts promised per 1,000 agent-days"),
        Column("observed", "number", "the same, on held-out history, by behaviour alone"),
        Column("alerts", "count", "their number"),
        Column("agent_days", "count", "days on which an agent was active"),
        Column("enough_history", "flag", "whether the history is long enough to tell"),
    ),
    "backtest_alerts": (
        _SIDE,
        _ALERT_LEVEL,
        Column("budget", "number", "accepted per 1,000 agent-days"),
        Column("alerts", "count", "rises to it"),
        Column("rate", "number", "per 1,000 agent-days"),
    ),
    "backtest_sweep": (
        _SIDE,
        Column("factor", "number", "budget tried, in multiples of the one set"),
        _ALERT_LEVEL,
        Column("budget", "number", "accepted per 1,000 agent-days"),
        Column("alerts", "count", "rises to it"),
        Column("rate", "number", "per 1,000 agent-days"),
    ),
    "backtest_requests": (
        _SIDE,
        Column("type", "name", "type of request"),
        Column("level", "level", "level of the agent just before"),
        Column("outcome", "name", "allowed, shortened, narrowed, held (for a person), denied"),
        Column("requests", "count", "how many"),
    ),
    "backtest_revoked": (
        _SIDE,
        Column("tenant", "name", "tenant"),
        Column("agent_id", "name", "agent whose tokens would have been revoked"),
        Column("agent_type", "name", "its type"),
        Column("at", "time", "when"),
        Column("until", "time", "until when; missing = not within the history"),
        Column("level", "level", "level that did it"),
        Column("risk_score", "number", "0 to 1"),
        Column("later_events", "count", "events meanwhile, which the revocation would have stopped"),
        Column("enforced", "flag", "whether the policy is in force for it, as the file is"),
        Column("reason", "text", "the strongest reason"),
        Column("event_id", "text", "event that did it"),
    ),
    "judged": (
        Column("policy", "name", "policy; missing where only one was tried"),
        Column("tenant", "name", "tenant"),
        Column("agent_id", "name", "agent that would have been revoked"),
        Column("at", "time", "when"),
        Column("level", "level", "level that did it"),
        Column("attacked", "maybe", "whether the labels know of a bad event of it; missing without labels"),
        Column("first_bad", "time", "first of those"),
        Column("delay_s", "number", "seconds from it to the revocation; below 0 the revocation came first"),
    ),
    "backtest_touched": (
        _SIDE,
        Column("tenant", "name", "tenant"),
        Column("agent_id", "name", "agent with a request that was not simply allowed"),
        Column("outcome", "name", "what became of requests"),
        Column("requests", "count", "how many"),
    ),
    "backtest_detection": (
        _SIDE,
        _ALERT_LEVEL,
        Column("bad_sessions", "count", "labelled bad"),
        Column("detected", "count", "of them, at or after their first bad event"),
        Column("already", "count", "of them, of agents that were there before"),
        Column("delay_median_s", "number", "from the first bad event, event time; NaN = none detected"),
        Column("true_alerts", "count", "rises by events of bad sessions"),
        Column("false_alerts", "count", "rises by events of good ones"),
    ),
    "backtest_separation": (
        _SIDE,
        Column("unit", "name", "event or session"),
        Column("units", "count", "labelled"),
        Column("bad", "count", "of them"),
        Column("roc_auc", "number", "1 = every bad one above every good one"),
        Column("average_precision", "number", "mean precision over the bad ones"),
        Column("recall_at_1_percent", "number", "bad ones found at 1 % false positives"),
        Column("recall_at_5_percent", "number", "at 5 %"),
    ),
    "backtest_curves": (
        _SIDE,
        Column("unit", "name", "event or session"),
        Column("curve", "name", "roc (x: false positives, y: found) or precision_recall (x: found, y: precision)"),
        Column("x", "number", "share"),
        Column("y", "number", "share"),
    ),
    "backtest_comparison": (
        Column("figure", "text", "what"),
        Column("a", "number", "A"),
        Column("b", "number", "B"),
        Column("difference", "number", "B less A"),
    ),
    "budgets": (
        Column("factor", "number", "multiple of the budget set"),
        _ALERT_LEVEL,
        Column("budget", "number", "accepted per 1,000 agent-days"),
        Column("alerts", "count", "rises to it"),
        Column("rate", "number", "per 1,000 agent-days"),
        Column("bad_sessions", "whole", "labelled bad; missing without labels"),
        Column("detected", "whole", "of them"),
        Column("already", "whole", "of them, of agents that were at the level before: neither found nor missed"),
        Column("false_alerts", "whole", "rises by events of good sessions"),
    ),
    "what_if": (
        Column("policy", "name", "policy"),
        Column("factor", "number", "multiple of the alert budget set"),
        Column("agents_revoked", "count", "agents whose tokens would have been revoked"),
        Column("agents_touched", "count", "agents with a request that was not simply allowed"),
        Column("denied", "count", "requests"),
        Column("held", "count", "requests that wait for a person"),
        Column("narrowed", "count", "requests that get fewer scopes"),
        Column("shortened", "count", "requests that get a shorter token"),
        Column("allowed", "count", "requests"),
    ),
}  # fmt: skip
"""Frame -> its columns, in order."""


def frame(name: str, rows: Iterable[Sequence[Any]]) -> Any:
    """A frame of rows, each with a value for every column in order. Times are UTC milliseconds; None is missing."""
    columns = FRAMES[name]
    by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
    return _built(columns, by_column)


def frame_of(name: str, values: Mapping[str, Any]) -> Any:
    """A frame of arrays by column name, all of one length."""
    columns = FRAMES[name]
    return _built(columns, [values[column.name] for column in columns])


def _built(columns: Sequence[Column], values: Sequence[Any]) -> Any:
    series = {
        column.name: _series(column, given) for column, given in zip(columns, values, strict=True)
    }  # fmt: skip
    return pd.DataFrame(series)


def _series(column: Column, values: Any) -> Any:
    kind = column.kind
    if kind == "time":
        return _times(values)
    if kind == "level":
        return pd.Series(pd.Categorical(_listed(values), categories=LEVELS, ordered=True), name=column.name)
    if kind == "name":
        return pd.Series(pd.Categorical(_listed(values)), name=column.name)
    if kind == "text":
        return pd.Series(["" if value is None else value for value in values], dtype="str", name=column.name)
    if kind == "number":
        return pd.Series([np.nan if value is None else value for value in values], dtype="float64", name=column.name)
    return pd.Series(_listed(values), dtype=KINDS[kind], name=column.name)


def _listed(values: Any) -> list[Any]:
    """Values as they are; "" of a name is missing."""
    return [None if value is None or (isinstance(value, str) and not value) else value for value in values]


def _times(values: Any) -> Any:
    """UTC milliseconds; None, 0 and less are missing: nothing of ours happened in 1970."""
    known = np.array([0 if value is None else value for value in values], np.int64)
    stamps = known.astype("datetime64[ms]")
    stamps[known <= 0] = np.datetime64("NaT")
    return pd.Series(stamps).dt.tz_localize("UTC")


def dtypes(name: str) -> dict[str, str]:
    """Column -> dtype of a frame."""
    return {column.name: KINDS[column.kind] for column in FRAMES[name]}
