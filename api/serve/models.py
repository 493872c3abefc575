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
from ..lifecycle import ModelDesk
from ..lifecycle.announce import Announcer
from ..settings import Settings
from .wiring import model_shelf

LOOK_EVERY_S = 2.0
"""The version in force is looked up so often: answers name it."""

_log = structlog.get_logger(__name__)


def make_desk(settings: Settings, log: GroupCommit, store: Store) -> ModelDesk:
    """The desk of a service. Raises ModelError."""
    announce = Announcer(log, clock.now_ms)
    return ModelDesk(settings, store, model_shelf(settings), announce, clock.now_ms, new_id)


async def promote_proved(desk: ModelDesk, version: str) -> None:
    """Promote a challenger that the keeper found better; the desk judges once more, by the stored figures."""
    try:
        await desk.promote(version, "keeper", "")
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
        _log.info("a challenger is promoted", version=version)


async def keep_desk(desk: ModelDesk, stop: asyncio.Event) -> None:
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
            await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
