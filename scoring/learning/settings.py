"""Operators' settings of learning."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.settings import SettingsPart, setting


class DriftSettings(SettingsPart, frozen=True):
    """Thresholds from which a peer group counts as drifted, and the pace of its alerts."""

    features: Annotated[
        float, setting("population stability index of a feature from which it has drifted", gt=0, le=10)
    ] = 0.5
    scores: Annotated[
        float,
        setting("population stability index of p-values from which they have drifted", gt=0, le=10),
    ] = 0.2
    reference_days: Annotated[
        int, setting("first days of a group under a model, which later days are measured against", ge=1, le=90)
    ] = 7
