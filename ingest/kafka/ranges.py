"""Offsets that a partition does not have."""

from __future__ import annotations

from ..errors import CorruptLog


def offset_out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> CorruptLog:
    """The error for *offset* of a partition that keeps [start, end): says what must have happened."""
    where = f"{topic}[{partition}]: offset {offset}"
    if offset < start:
        return CorruptLog(
            f"{where} is no longer kept, the partition starts at {start}: retention removed {start - offset} records"
            " that were not applied yet; restore the topic, or move the stored position on and accept the loss"
        )
    return CorruptLog(
        f"{where} is behind the end of the partition, {end}: another cluster, a topic made anew, or acknowledged"
        " records lost by an unclean election"
    )
