"""Every frame of the lab, declared once: its columns, their types, units and meaning (`reference/frames.md`).

Frames have these columns also where they have no rows. Times are `datetime64[ms, UTC]`. Names that repeat are
categoricals, levels ordered ones (`unknown` < `low` < … < `critical`). Missing values are NA, NaN or NaT.
"""

from __future__ import annotations

from typing import NamedTuple

from trustwatch.ingest.features.feature_declaration import UNIT_WORDS
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.scoring.records.agents import RiskLevel

LEVEL_NAMES = tuple(level.label for level in RiskLevel)


class FrameColumn(NamedTuple):
    """One column. *kind* is a key of `COLUMN_DTYPES`."""

    name: str
    kind: str
    meaning: str


COLUMN_DTYPES: dict[str, str] = {
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

AGENT_COLUMNS = (
    FrameColumn("tenant", "name", "tenant"),
    FrameColumn("issuer", "name", "issuer of the agent's tokens"),
    FrameColumn("agent_id", "name", "agent"),
    FrameColumn("agent_type", "name", "its type: the peer group, within the tenant"),
)
SCORED_EVENT_COLUMNS = (
    FrameColumn("time", "time", "when it happened"),
    FrameColumn("id", "text", "id of the event"),
    *AGENT_COLUMNS,
    FrameColumn("action", "name", "what was done"),
)
ALERT_LEVEL_COLUMN = FrameColumn("level", "level", "level that an alert is raised at")
SIDE_COLUMN = FrameColumn("side", "name", "A, or B where two models or policies are compared")

# Frames of what a service has: agents, decisions, alerts, events.
STORE_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "agents": (
        *AGENT_COLUMNS,
        FrameColumn("level", "level", "risk level now"),
        FrameColumn("risk_score", "number", "risk score, 0 to 1, as of `evaluated`"),
        FrameColumn("confidence", "number", "how well the agent is known, 0 to 1"),
        FrameColumn("anomaly_score", "number", "of its last event, 0 to 1; 0.5 is usual"),
        FrameColumn("events", "count", "events seen"),
        FrameColumn("first_seen", "time", "first event"),
        FrameColumn("last_seen", "time", "last event"),
        FrameColumn("evaluated", "time", "as of when the risk is told"),
        FrameColumn("reason", "text", "the strongest reason for the risk; empty = none"),
        FrameColumn("decision_id", "text", "decision that set the level; empty = none yet"),
    ),
    "decisions": (
        FrameColumn("time", "time", "when the level changed, in event time"),
        *AGENT_COLUMNS,
        FrameColumn("previous_level", "level", "before"),
        FrameColumn("level", "level", "after"),
        FrameColumn("risk_score", "number", "0 to 1"),
        FrameColumn("confidence", "number", "0 to 1"),
        FrameColumn("anomaly_score", "number", "of the event, 0 to 1"),
        FrameColumn("p_value", "number", "of the event"),
        FrameColumn("cause", "name", "event, tick (time passed) or release (a person)"),
        FrameColumn("reason", "text", "the strongest reason"),
        FrameColumn("signals", "text", "hard signals that fired, blanks between: rules that need no statistics"),
        FrameColumn(
            "counterfactual", "text", "what would have kept the level lower; empty = no one thing of the event"
        ),
        FrameColumn("mode", "name", "shadow or enforce"),
        FrameColumn("model_version", "name", "model that scored it"),
        FrameColumn("policy_version", "name", "token policy then"),
        FrameColumn("event_id", "text", "event that did it; empty = none did"),
        FrameColumn("decided", "time", "when it was decided, on the service's clock"),
        FrameColumn("decision_id", "text", "id"),
    ),
    "alerts": (
        FrameColumn("time", "time", "when the level rose, in event time"),
        *AGENT_COLUMNS,
        FrameColumn("level", "level", "medium, high or critical"),
        FrameColumn("reason", "text", "the strongest reason"),
        FrameColumn("target", "name", "where it was sent; missing = no target took it"),
        FrameColumn("status", "name", "pending, delivered, failed, suppressed or dead; missing = no target took it"),
        FrameColumn("attempts", "whole", "tries of delivery"),
        FrameColumn("delivered", "time", "when it arrived"),
        FrameColumn("error", "text", "why it did not, or was held back"),
        FrameColumn("decision_id", "text", "the decision"),
    ),
    "events": (
        FrameColumn("time", "time", "when it happened"),
        FrameColumn("received", "time", "when it arrived; missing in files"),
        FrameColumn("id", "text", "id; empty = it has none"),
        FrameColumn("source", "name", "who told"),
        FrameColumn("type", "name", "token.request, tool.call, …"),
        *AGENT_COLUMNS,
        FrameColumn("agent_version", "name", "version of the agent"),
        FrameColumn("self_asserted", "flag", "no token vouches for the agent's id"),
        FrameColumn("principal_id", "text", "on whose behalf"),
        FrameColumn("delegation", "text", "chain of actors, the current one first, joined by ` <- `"),
        FrameColumn("task", "name", "declared purpose"),
        FrameColumn("action", "name", "what was done"),
        FrameColumn("effect", "name", "read, write, delete, admin, unknown"),
        FrameColumn("resource_type", "name", "kind of resource"),
        FrameColumn("resource_id", "text", "resource"),
        FrameColumn("target", "text", "canonical destination"),
        FrameColumn("external", "maybe", "whether the target lies outside the tenant"),
        FrameColumn("audience", "name", "audience of the token"),
        FrameColumn("provenance", "name", "where the argument came from"),
        FrameColumn("peer", "name", "agent that was called or called"),
        FrameColumn("scopes_requested", "text", "scopes, blanks between"),
        FrameColumn("scopes_granted", "text", "scopes, blanks between"),
        FrameColumn("outcome", "name", "success, denied, error"),
        FrameColumn("status", "whole", "HTTP status"),
        FrameColumn("error", "text", "error"),
        FrameColumn("bytes_in", "number", "bytes sent to the tool"),
        FrameColumn("bytes_out", "number", "bytes returned"),
        FrameColumn("duration_ms", "number", "milliseconds"),
        FrameColumn("client_ip", "text", "address"),
        FrameColumn("asn", "whole", "network"),
        FrameColumn("credential", "text", "method and thumbprint of the key"),
        FrameColumn("token_lifetime_s", "number", "seconds"),
        FrameColumn("session", "text", "session"),
        FrameColumn("trace_id", "text", "trace"),
        FrameColumn(
            "raw", "bytes", "the record as it was sent (JSON): what `train_model`, `scores` and `run_backtest` take"
        ),
    ),
}

# Frames of what events and decisions rest on: scores, feature vectors, reasons, shares.
SCORE_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "scores": (
        *SCORED_EVENT_COLUMNS,
        FrameColumn(
            "anomaly_score", "number", "0 to 1; 0.5 is usual, 0.75 is what one normal event in a hundred exceeds"
        ),
        FrameColumn("p_value", "number", "share of normal events at least as odd"),
        FrameColumn("evidence", "number", "evidence that the event brought, natural log; below 0 it calms"),
        FrameColumn(
            "statistic",
            "number",
            "gathered evidence after it, of the gravest concern, natural log: levels are thresholds of it",
        ),
        FrameColumn("risk_score", "number", "risk of the agent after it, 0 to 1"),
        FrameColumn("level_before", "level", "level just before it"),
        FrameColumn("level", "level", "level after it"),
        FrameColumn("confidence", "number", "how well the agent was known, 0 to 1"),
    ),
    "vectors": (
        *SCORED_EVENT_COLUMNS,
        *(FrameColumn(f.name, "number", f"{f.meaning} ({UNIT_WORDS[f.unit]})") for f in FEATURES),
    ),
    "risk_history": (
        FrameColumn("time", "time", "when"),
        FrameColumn("kind", "name", "event (replayed), decay (time passed) or decision (as the service recorded it)"),
        FrameColumn("risk_score", "number", "0 to 1"),
        FrameColumn("level", "level", "level then"),
        FrameColumn("action", "name", "of the event"),
        FrameColumn("cause", "name", "of the decision"),
        FrameColumn("reason", "text", "of the decision"),
        FrameColumn("decision_id", "text", "of the decision"),
    ),
    "reasons": (
        FrameColumn("code", "name", "which rule or feature"),
        FrameColumn("feature", "name", "feature or signal"),
        FrameColumn("observed", "text", "what was seen"),
        FrameColumn("usual", "text", "what is usual"),
        FrameColumn("contribution", "number", "share of what stood out, 0 to 1"),
        FrameColumn("text", "text", "the sentence that alerts show"),
    ),
    "contributions": (
        FrameColumn("feature", "name", "feature"),
        FrameColumn("family", "name", "family of the feature"),
        FrameColumn("value", "number", "value, in `unit`"),
        FrameColumn("unit", "name", "surprise, distance from the usual, yes or no, share, rank"),
        FrameColumn("evidence", "number", "decades (-log10 of how rare the value is), weighed"),
        FrameColumn("share", "number", "share of what stood out, 0 to 1"),
        FrameColumn("meaning", "text", "what it measures"),
    ),
}

# Frames of how agents behave, and with whom.
BEHAVIOUR_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "profile": (
        FrameColumn("quantity", "name", "what is measured"),
        FrameColumn("unit", "name", "its unit"),
        FrameColumn("usual", "number", "mean of what the agent learned, older events counting less"),
        FrameColumn("low", "number", "one standard deviation below"),
        FrameColumn("high", "number", "one standard deviation above"),
        FrameColumn("peers", "number", "mean of its peer group in the model"),
        FrameColumn("events", "number", "events behind it, counted up to a bound"),
    ),
    "habits": (
        FrameColumn("kind", "name", "action, target, audience, scopes, principal, network, credential, peer, hour"),
        FrameColumn("item", "text", "which one"),
        FrameColumn("events", "count", "events with it"),
        FrameColumn("share", "number", "of the events that have one of this kind"),
        FrameColumn("first", "time", "first event with it"),
        FrameColumn("last", "time", "last event with it"),
    ),
    "comparison": (
        FrameColumn("kind", "name", "as in `habits`"),
        FrameColumn("item", "text", "which one"),
        FrameColumn("events_a", "count", "events of A with it"),
        FrameColumn("events_b", "count", "events of B with it"),
        FrameColumn("share_a", "number", "of A's events of that kind"),
        FrameColumn("share_b", "number", "of B's"),
        FrameColumn("difference", "number", "share of B less that of A"),
    ),
    "distances": (
        FrameColumn("kind", "name", "as in `habits`"),
        FrameColumn("distance", "number", "Jensen-Shannon distance of the shares: 0 alike, 1 nothing in common"),
        FrameColumn("only_a", "count", "items that only A has"),
        FrameColumn("only_b", "count", "items that only B has"),
        FrameColumn("common", "count", "items of both"),
    ),
    "versions": (
        *AGENT_COLUMNS[:1],
        *AGENT_COLUMNS[2:],
        FrameColumn("agent_version", "name", "version"),
        FrameColumn("events", "count", "events of it"),
        FrameColumn("first", "time", "first of them"),
        FrameColumn("last", "time", "last of them"),
    ),
    "edges": (
        FrameColumn("kind", "name", "delegated, called, acts_for (a principal)"),
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("source", "name", "agent that acted"),
        FrameColumn("target", "name", "agent or principal"),
        FrameColumn("first", "time", "first seen"),
        FrameColumn("last", "time", "last seen, give or take an hour"),
        FrameColumn("risk", "number", "highest risk score of who acted, 0 to 1, as of `risk_time`"),
        FrameColumn("risk_time", "time", "when that was"),
    ),
    "blast_radius": (
        FrameColumn("depth", "count", "steps away"),
        FrameColumn("agent_id", "name", "agent reached"),
        FrameColumn("kind", "name", "delegated where every step was a delegation, else called"),
        FrameColumn("via", "name", "the agent before it"),
        FrameColumn("level", "level", "its own level; missing = never seen"),
        FrameColumn("first", "time", "first seen"),
        FrameColumn("last", "time", "last seen"),
        FrameColumn("risk", "number", "risk score of who acted over the last step"),
    ),
    "labels": (
        FrameColumn("id", "text", "id of the event"),
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("agent_id", "name", "agent"),
        FrameColumn("session", "text", "session"),
        FrameColumn("bad_event", "flag", "the event is bad"),
        FrameColumn("bad_session", "flag", "its session is"),
        FrameColumn("class", "name", "kind of attack"),
    ),
}

# Frames of what a model has learned, and of what it promises.
MODEL_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "features": (
        FrameColumn("feature", "name", "feature"),
        FrameColumn("family", "name", "family"),
        FrameColumn("unit", "name", "unit"),
        FrameColumn("importance", "number", "weight of its evidence, 0 to 1"),
        FrameColumn("usual", "number", "median of its evidence in the history, decades"),
        FrameColumn("upper", "number", "90th percentile; more than that stands out"),
        FrameColumn("meaning", "text", "what it measures"),
    ),
    "groups": (
        FrameColumn(
            "group", "text", "tenant and agent type; `fleet` is all; a hash where no such agent is in the store"
        ),
        FrameColumn("events", "count", "events of the history"),
        FrameColumn("events_per_day", "number", "of an active agent"),
        FrameColumn("own_calibration", "flag", "whether it has history enough; else it is judged by the fleet's"),
        FrameColumn("medium", "number", "evidence at which the level begins, natural log"),
        FrameColumn("high", "number", "the same"),
        FrameColumn("critical", "number", "the same"),
    ),
    "calibration": (
        FrameColumn("group", "text", "as in `groups`"),
        FrameColumn("agents", "text", "known: with 500 events or more in the model's history; newcomers: all others"),
        FrameColumn("anomaly_score", "number", "0 to 1"),
        FrameColumn("p_value", "number", "what it means in that group"),
    ),
    "reliability": (
        FrameColumn("promised", "number", "p-value"),
        FrameColumn("observed", "number", "share of the scored events with at most that p-value"),
        FrameColumn("events", "count", "how many those are"),
        FrameColumn("low", "number", "where the share lies with 95 % if events were independent: lower end"),
        FrameColumn("high", "number", "upper end"),
    ),
    "budget_report": (
        ALERT_LEVEL_COLUMN,
        FrameColumn("budget", "number", "alerts promised per 1,000 agent-days"),
        FrameColumn("observed", "number", "the same, on held-out history, by behaviour alone"),
        FrameColumn("alerts", "count", "their number"),
        FrameColumn("agent_days", "count", "days on which an agent was active"),
        FrameColumn("enough_history", "flag", "whether the history is long enough to tell"),
    ),
}

# Frames of back-tests: history judged again, at other budgets and under other policies.
BACKTEST_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "backtest_alerts": (
        SIDE_COLUMN,
        ALERT_LEVEL_COLUMN,
        FrameColumn("budget", "number", "accepted per 1,000 agent-days"),
        FrameColumn("alerts", "count", "rises to it"),
        FrameColumn("rate", "number", "per 1,000 agent-days"),
    ),
    "backtest_sweep": (
        SIDE_COLUMN,
        FrameColumn("factor", "number", "budget tried, in multiples of the one set"),
        ALERT_LEVEL_COLUMN,
        FrameColumn("budget", "number", "accepted per 1,000 agent-days"),
        FrameColumn("alerts", "count", "rises to it"),
        FrameColumn("rate", "number", "per 1,000 agent-days"),
    ),
    "backtest_requests": (
        SIDE_COLUMN,
        FrameColumn("type", "name", "type of request"),
        FrameColumn("level", "level", "level of the agent just before"),
        FrameColumn("outcome", "name", "allowed, shortened, narrowed, held (for a person), denied"),
        FrameColumn("requests", "count", "how many"),
    ),
    "backtest_revoked": (
        SIDE_COLUMN,
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("agent_id", "name", "agent whose tokens would have been revoked"),
        FrameColumn("agent_type", "name", "its type"),
        FrameColumn("at", "time", "when"),
        FrameColumn("until", "time", "until when; missing = not within the history"),
        FrameColumn("level", "level", "level that did it"),
        FrameColumn("risk_score", "number", "0 to 1"),
        FrameColumn("later_events", "count", "events meanwhile, which the revocation would have stopped"),
        FrameColumn("enforced", "flag", "whether the policy is in force for it, as the file is"),
        FrameColumn("reason", "text", "the strongest reason"),
        FrameColumn("event_id", "text", "event that did it"),
    ),
    "labelled_revocations": (
        FrameColumn("policy", "name", "policy; missing where only one was tried"),
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("agent_id", "name", "agent that would have been revoked"),
        FrameColumn("at", "time", "when"),
        FrameColumn("level", "level", "level that did it"),
        FrameColumn("attacked", "maybe", "whether the labels know of a bad event of it; missing without labels"),
        FrameColumn("first_bad", "time", "first of those"),
        FrameColumn("delay_s", "number", "seconds from it to the revocation; below 0 the revocation came first"),
    ),
    "backtest_touched": (
        SIDE_COLUMN,
        FrameColumn("tenant", "name", "tenant"),
        FrameColumn("agent_id", "name", "agent with a request that was not simply allowed"),
        FrameColumn("outcome", "name", "what became of requests"),
        FrameColumn("requests", "count", "how many"),
    ),
    "backtest_detection": (
        SIDE_COLUMN,
        ALERT_LEVEL_COLUMN,
        FrameColumn("bad_sessions", "count", "labelled bad"),
        FrameColumn("detected", "count", "of them, at or after their first bad event"),
        FrameColumn("already", "count", "of them, of agents that were there before"),
        FrameColumn("delay_median_s", "number", "from the first bad event, event time; NaN = none detected"),
        FrameColumn("true_alerts", "count", "rises by events of bad sessions"),
        FrameColumn("false_alerts", "count", "rises by events of good ones"),
    ),
    "backtest_separation": (
        SIDE_COLUMN,
        FrameColumn("unit", "name", "event or session"),
        FrameColumn("units", "count", "labelled"),
        FrameColumn("bad", "count", "of them"),
        FrameColumn("roc_auc", "number", "1 = every bad one above every good one"),
        FrameColumn("average_precision", "number", "mean precision over the bad ones"),
        FrameColumn("recall_at_1_percent", "number", "bad ones found at 1 % false positives"),
        FrameColumn("recall_at_5_percent", "number", "at 5 %"),
    ),
    "backtest_curves": (
        SIDE_COLUMN,
        FrameColumn("unit", "name", "event or session"),
        FrameColumn("curve", "name", "roc (x: false positives, y: found) or precision_recall (x: found, y: precision)"),
        FrameColumn("x", "number", "share"),
        FrameColumn("y", "number", "share"),
    ),
    "backtest_comparison": (
        FrameColumn("figure", "text", "what"),
        FrameColumn("a", "number", "A"),
        FrameColumn("b", "number", "B"),
        FrameColumn("difference", "number", "B less A"),
    ),
    "budgets": (
        FrameColumn("factor", "number", "multiple of the budget set"),
        ALERT_LEVEL_COLUMN,
        FrameColumn("budget", "number", "accepted per 1,000 agent-days"),
        FrameColumn("alerts", "count", "rises to it"),
        FrameColumn("rate", "number", "per 1,000 agent-days"),
        FrameColumn("bad_sessions", "whole", "labelled bad; missing without labels"),
        FrameColumn("detected", "whole", "of them"),
        FrameColumn("already", "whole", "of them, of agents that were at the level before: neither found nor missed"),
        FrameColumn("false_alerts", "whole", "rises by events of good sessions"),
    ),
    "what_if": (
        FrameColumn("policy", "name", "policy"),
        FrameColumn("factor", "number", "multiple of the alert budget set"),
        FrameColumn("agents_revoked", "count", "agents whose tokens would have been revoked"),
        FrameColumn("agents_touched", "count", "agents with a request that was not simply allowed"),
        FrameColumn("denied", "count", "requests"),
        FrameColumn("held", "count", "requests that wait for a person"),
        FrameColumn("narrowed", "count", "requests that get fewer scopes"),
        FrameColumn("shortened", "count", "requests that get a shorter token"),
        FrameColumn("allowed", "count", "requests"),
    ),
}


FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    **STORE_FRAME_COLUMNS,
    **SCORE_FRAME_COLUMNS,
    **BEHAVIOUR_FRAME_COLUMNS,
    **MODEL_FRAME_COLUMNS,
    **BACKTEST_FRAME_COLUMNS,
}
"""Frame -> its columns, in order."""
