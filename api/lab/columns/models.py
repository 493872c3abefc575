"""Frames of what a model has learned, and of what it promises."""

from __future__ import annotations

from .column import ALERT_LEVEL, Column

FRAMES: dict[str, tuple[Column, ...]] = {
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
        Column("agents", "text", "known: with 500 events or more in the model's history; newcomers: all others"),
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
        ALERT_LEVEL,
        Column("budget", "number", "alerts promised per 1,000 agent-days"),
        Column("observed", "number", "the same, on held-out history, by behaviour alone"),
        Column("alerts", "count", "their number"),
        Column("agent_days", "count", "days on which an agent was active"),
        Column("enough_history", "flag", "whether the history is long enough to tell"),
    ),
}
