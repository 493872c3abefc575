"""The desk of models of a running service, and what keeps it up to date."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from ...ingest.errors import TrustwatchError
from ...ingest.log import GroupCommit
from ...scoring.store import Store
from .. import clock
from ..http.services import new_id
from ..lifecycle import ModelService
from ..lifecycle.announce import ControlRecordWriter
from ..settings import Settings
from .wiring import open_model_registry

VERSION_REFRESH_EVERY_S = 2.0
"""The version in force is looked up so often: answers name it."""

_log = structlog.get_logger(__name__)


def make_model_service(settings: Settings, log: GroupCommit, store: Store) -> ModelService:
    """The desk of a service. Raises ModelError."""
    announce = ControlRecordWriter(log, clock.now_ms)
    return ModelService(settings, store, open_model_registry(settings), announce, clock.now_ms, new_id)


async def promote_ready_challenger(desk: ModelService, version: str) -> None:
    """Promote a challenger that the keeper found better; the desk judges once more, by the stored figures."""
    try:
        await desk.promote(version, "keeper", "")
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
        _log.info("a challenger is promoted", version=version)


async def track_active_version(desk: ModelService, stop: asyncio.Event) -> None:
    """Look which version is in force, until *stop*."""
    failing = False
    while not stop.is_set():
        try:
            await asyncio.to_thread(desk.refresh)
            failing = False
        except (TrustwatchError, OSError) as error:
            if not failing:
                _log.warning("which model is in force can not be looked up", error=str(error))
            failing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), VERSION_REFRESH_EVERY_S)
