"""Pseudonyms, and how long what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from .about import SettingsPart, setting

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class PrivacySettings(SettingsPart, frozen=True):
    """What of persons is logged."""

    pseudonymise_principals: Annotated[
        bool, setting("log keyed hashes in place of principals' identifiers, from the door on")
    ] = False
    key_file: Annotated[
        Path | None,
        setting("key of pseudonyms, the same for all replicas; null is `privacy-key` in `data_dir`, made on first use"),
    ] = None
    read_unlisted: Annotated[
        bool,
        setting(
            "read the events topic also where no database tells who was erased (training, back-tests, notebooks away "
            "from the service): they are seen, then"
        ),
    ] = False


class RetentionSettings(SettingsPart, frozen=True):
    """How long rows and log segments are kept, days; null is `retention_days`. Archives: `archive.retention_days`."""

    decisions: Annotated[Days | None, setting("decisions, except an agent's current one")] = None
    deliveries: Annotated[Days | None, setting("alerts and orders without a pending delivery")] = None
    dead_letters: Annotated[Days | None, setting("dead letters that were replayed")] = None
    waiting_dead_letters: Annotated[
        Days | None, setting("dead letters that nobody replayed; null keeps them, bounded by their number")
    ] = None
    interventions: Annotated[Days | None, setting("pins and approvals that ended")] = None
    actuations: Annotated[Days | None, setting("what was done at authorization servers and is undone")] = None
    edges: Annotated[Days | None, setting("who had to do with whom, since it was last seen")] = None
    feedback: Annotated[Days | None, setting("previews of feedback, and what partitions held of rules that ended")] = (
        None
    )
    labels: Annotated[
        Days | None,
        setting(
            "what people said of decisions, once it is over; null is as long as training may read the events: "
            "`retention_days`, or `archive.retention_days` where there is an archive and that is longer"
        ),
    ] = None
    log: Annotated[int, setting("segments of the event log that everybody has come past", ge=1, le=36_500)] = 7
