"""Frames of what events and decisions rest on: scores, feature vectors, reasons, shares."""

from __future__ import annotations

from ....ingest.features.table import FEATURES
from .column import SCORED_EVENT_COLUMNS, FrameColumn

SCORE_FRAME_COLUMNS: dict[str, tuple[FrameColumn, ...]] = {
    "scores": (
        *SCORED_EVENT_COLUMNS,
        FrameColumn(
            "anomaly_score", "number", "0 to 1; 0.5 is usual, 0.75 is what one normal event in a hundred exceeds"
        ),
        FrameColumn("p_value", "number", "share of normal events at least as odd"),
        FrameColumn("evidence", "number", "evidence that the event brought, natural log; below 0 it calms"),
        FrameColumn("statistic", "number", "gathered evidence after it, natural log: levels are thresholds of it"),
        FrameColumn("risk_score", "number", "risk of the agent after it, 0 to 1"),
        FrameColumn("level_before", "level", "level just before it"),
        FrameColumn("level", "level", "level after it"),
        FrameColumn("confidence", "number", "how well the agent was known, 0 to 1"),
    ),
    "vectors": (*SCORED_EVENT_COLUMNS, *(FrameColumn(f.name, "number", f"{f.meaning} ({f.unit})") for f in FEATURES)),
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
        FrameColumn("unit", "name", "bits, z (standard deviations), flag, share, rank"),
        FrameColumn("evidence", "number", "decades (-log10 of how rare the value is), weighed"),
        FrameColumn("share", "number", "share of what stood out, 0 to 1"),
        FrameColumn("meaning", "text", "what it measures"),
    ),
}
