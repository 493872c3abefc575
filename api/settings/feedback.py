"""Feedback: how far and how long a person's word reaches."""

from __future__ import annotations

from typing import Annotated

from .about import SettingsPart, setting


class FeedbackSettings(SettingsPart, frozen=True):
    """Bounds of rules that people make of false positives, and of their previews."""

    max_days: Annotated[float, setting("longest time that a rule may hold, days", gt=0, le=365)] = 90.0
    broad_max_hours: Annotated[
        float,
        setting("longest time of a rule for one agent that names neither features nor a resource, h", gt=0, le=168),
    ] = 24.0
    max_rules: Annotated[int, setting("rules in force at a time, per tenant", ge=1, le=1000)] = 100
    preview_days: Annotated[float, setting("a preview counts what happened in the last so many days", gt=0, le=365)] = (
        7.0
    )
    preview_max_s: Annotated[
        float, setting("a preview that takes longer than this is given up, s", gt=0, le=86_400)
    ] = 600.0
    previews_waiting: Annotated[
        int, setting("previews of a tenant that may wait beside one that runs; more are refused with 429", ge=0, le=100)
    ] = 4
