"""Frames of what events and decisions rest on: scores, feature vectors, reasons, shares."""

from __future__ import annotations

from ....ingest.features.table import FEATURES
from .column import SCORED, Column

FRAMES: dict[str, tuple[Column, ...]] = {
    "scores": (
        *SCORED,
        Column("anomaly_score", "number", "0 to 1; 0.5 is usual, 0.75 is what one normal event in a hundred exceeds"),
        Column("p_value", "number", "share of normal events at least as odd"),
        Column("evidence", "number", "evidence that the event brought, natural log; below 0 it calms"),
        Column("statistic", "number", "gathered evidence after it, natural log: levels are thresholds of it"),
        Column("risk_score", "number", "risk of the agent after it, 0 to 1"),
        Column("level_before", "level", "level just before it"),
        Column("level", "level", "level after it"),
        Column("confidence", "number", "how well the agent was known, 0 to 1"),
    ),
    "vectors": (*SCORED, *(Column(f.name, "number", f"{f.meaning} ({f.unit})") for f in FEATURES)),
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
}
