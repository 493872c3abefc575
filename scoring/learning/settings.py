"""Operators' settings of learning."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.settings import SettingsPart, setting

DRIFTED_FEATURES = 0.5
DRIFTED_SCORES = 0.2
"""Population stability index from which a feature, and p-values, have drifted: 0.1 is a small shift, 0.25 large."""


class DriftSettings(SettingsPart, frozen=True):
    """What a peer group is measured against."""

    reference_days: Annotated[
        int, setting("first days of a group under a model, with which later days are compared", ge=1, le=90)
    ] = 7
