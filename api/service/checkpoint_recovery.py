"""Recovery from checkpoints without a worker: rows of agents are written from their files, and lost ones are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.commits import Checkpoint, Commit
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore

from ..composition import checkpoint_place, open_checkpoint_files
from ..settings.root import Settings

ROWS_PER_COMMIT: Final = 5_000


def write_rows_from_checkpoints(settings: Settings, store: SqlStore, *, accept_loss: bool) -> list[Checkpoint]:
    """Write the rows of all agents that have newer states in checkpoints, and end these; returns lost checkpoints.

    Partitions stay where they are, in new epochs. An agent of a lost checkpoint goes on from the last one before it, or
    from its row. May be run again after any failure.

    Args:
        settings: say where checkpoints lie.
        store: of the state; no worker runs.
        accept_loss: whether to go on without checkpoints that are gone or damaged.

    Raises:
        ConfigError: some are, and nobody has accepted that. Nothing was changed.
        Unavailable: the store or the place of checkpoints does not answer.
    """
    checkpoints = store.checkpoints.list_all()
    if not checkpoints:
        return []
    files = open_checkpoint_files(settings, check=False)
    lost = [checkpoint for checkpoint in checkpoints if not _is_readable(files, checkpoint)]
    if lost and not accept_loss:
        raise ConfigError(
            f"checkpoints that the database names are gone or damaged ({describe_lost(lost)}; looked at: "
            f"{checkpoint_place(settings) or 'nothing, since `store.checkpoints` names no place'}): put them back, or "
            "name their place in `store.checkpoints`; with --accept-lost-states those agents go on from older states"
        )
    for partition, of_partition in groupby(checkpoints, lambda checkpoint: checkpoint.position.partition):
        found = [checkpoint for checkpoint in of_partition if checkpoint not in lost]
        _write_rows(store, files, partition, found)
    return lost


def describe_lost(lost: Sequence[Checkpoint]) -> str:
    """Lost checkpoints, and up to how many agents each has, in words."""
    return ", ".join(f"{checkpoint.name} of {checkpoint.agents:,} agents" for checkpoint in lost)


def _is_readable(files: CheckpointFiles | None, checkpoint: Checkpoint) -> bool:
    try:
        return files is not None and bool(files.read_content(checkpoint))
    except CorruptCheckpoint:
        return False


def _write_rows(store: SqlStore, files: CheckpointFiles | None, partition: int, found: Sequence[Checkpoint]) -> None:
    at = store.partitions.claim(partition)
    rows = _newer_rows(store, files, partition, found)
    for start in range(0, len(rows), ROWS_PER_COMMIT):
        store.commit(Commit(at, at, rows[start : start + ROWS_PER_COMMIT], [], [], []))
    store.commit(Commit(at, at, [], [], [], [], ends_checkpoints=True))
    if files is not None:
        files.remove_up_to(at)


def _newer_rows(
    store: SqlStore, files: CheckpointFiles | None, partition: int, found: Sequence[Checkpoint]
) -> list[AgentRow]:
    """The newest row of each agent of checkpoints, where the store has none that is as new.

    A row may be newer where a checkpoint is lost: agents about whom something was decided have theirs with the commit.
    """
    newest: dict[int, tuple[tuple[int, int], AgentRow]] = {}
    for version, row in _versioned_rows(files, found):
        newest[row.name.key] = version, row
    for stored in store.agents.iterate_unpublished(partition, -1):
        key = stored.agent.name.key
        if key in newest and (stored.epoch, stored.offset) > newest[key][0]:
            del newest[key]
    return [row for _, row in newest.values()]


def _versioned_rows(
    files: CheckpointFiles | None, found: Sequence[Checkpoint]
) -> Iterator[tuple[tuple[int, int], AgentRow]]:
    for checkpoint in found:
        assert files is not None
        version = checkpoint.position.epoch, checkpoint.position.offset
        yield from ((version, row) for row in files.read(checkpoint))
