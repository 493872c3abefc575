"""Checks of checkpoints, wherever somebody needs the newest states of all agents: a start, a back-up, a move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.commits import Checkpoint
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore

from ..composition import checkpoint_place, open_checkpoint_files, open_worker_checkpoints
from ..settings.root import Settings

LEAVE_NONE: Final = (
    "start the workers once with the `store.checkpoints` that they had, and stop them cleanly (SIGTERM): a worker that "
    "is stopped so leaves none"
)
"""Words on the way to rows that have everything."""

_log = structlog.get_logger(__name__)


def open_named_checkpoints(settings: Settings, checkpoints: Sequence[Checkpoint]) -> CheckpointFiles:
    """Open the place of *checkpoints*, at least one. Raises ConfigError: the settings say that there is none."""
    files = open_checkpoint_files(settings, check=False)
    if files is None:
        raise ConfigError(
            f"store.checkpoints: {_described(checkpoints)} are in checkpoints, and the settings name no place of them: "
            f"name it again; to do without checkpoints, {LEAVE_NONE}"
        )
    return files


def read_checkpoints(settings: Settings, store: SqlStore) -> Iterator[list[AgentRow]]:
    """Agents of all checkpoints, the oldest of a partition first; none, where the place does not answer now.

    No worker may run that ends checkpoints meanwhile. Raises ConfigError, CorruptCheckpoint.
    """
    try:
        if checkpoints := store.checkpoints.list_all():
            yield from map(open_named_checkpoints(settings, checkpoints).read, checkpoints)
    except Unavailable as error:
        _log.warning("checkpoints can not be read now; the worker waits for them", error=str(error))


def check_checkpoints(settings: Settings, store: SqlStore) -> None:
    """Check, before workers start, that they will find the checkpoints that agents go on from.

    A place that does not answer now is left to the workers: partitions with checkpoints wait for it.

    Args:
        settings: of the service.
        store: names the checkpoints; other workers may run, and end some meanwhile.

    Raises:
        ConfigError: the settings name none, or a place that refuses, or where they are not.
    """
    try:
        files, checkpoints = open_worker_checkpoints(settings, store), store.checkpoints.list_all()
        if files is not None:
            files.check()
        if not checkpoints:
            return
        files = files or open_named_checkpoints(settings, checkpoints)
        present = files.list_files().keys()
        still_named = {checkpoint.name for checkpoint in store.checkpoints.list_all()}
        missing = [one for one in checkpoints if one.name in still_named and one.name not in present]
        if missing:
            raise ConfigError(
                f"store.checkpoints: {checkpoint_place(settings)} does not hold {missing[0].name}; {len(missing)} of "
                f"{len(checkpoints)} files are missing, with {_described(missing)}: name the place where they are, or "
                "restore database and checkpoints from one back-up"
            )
    except Unavailable as error:
        _log.warning("checkpoints can not be looked at now; partitions that have some wait for them", error=str(error))


def require_no_checkpoints(store: SqlStore, what: str) -> None:
    """Raise ConfigError while agents' newest states are in checkpoints, which *what* would leave behind."""
    if checkpoints := store.checkpoints.list_all():
        raise ConfigError(
            f"{_described(checkpoints)} are in checkpoints, and {what} goes by rows: {LEAVE_NONE}; then run this again"
        )


def _described(checkpoints: Sequence[Checkpoint]) -> str:
    """The agents of checkpoints, in words; one that is in several is counted several times."""
    agents = Counter[int]()
    for checkpoint in checkpoints:
        agents[checkpoint.position.partition] = max(agents[checkpoint.position.partition], checkpoint.agents)
    listed = ", ".join(map(str, sorted(agents)))
    return f"the newest states of at least {agents.total():,} agents of partition{'s'[: len(agents) > 1]} {listed}"
