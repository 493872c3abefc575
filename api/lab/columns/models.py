"""Frames of what a model has learned, and of what it promises."""

from __future__ import annotations

from .column import ALERT_LEVEL_COLUMN, FrameColumn

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
    "promise": (
        ALERT_LEVEL_COLUMN,
        FrameColumn("budget", "number", "alerts promised per 1,000 agent-days"),
        FrameColumn("observed", "number", "the same, on held-out history, by behaviour alone"),
        FrameColumn("alerts", "count", "their number"),
        FrameColumn("agent_days", "count", "days on which an agent was active"),
        FrameColumn("enough_history", "flag", "whether the history is long enough to tell"),
    ),
}
