"""The desk of erasures of a running service, and what this process itself forgets."""

from __future__ import annotations

import asyncio

import msgspec

from ...ingest.erasing import NameEraser, Subject
from ...ingest.log import GroupCommit
from ...scoring.channel import summaries
from ...scoring.privacy import Forgotten
from ...scoring.store import SqlStore
from ...scoring.view import RiskView
from .. import clock
from ..console.profile import profile_of
from ..guard import Guard
from ..http.services import PipelineStatus
from ..privacy import ErasureDesk, Places
from ..privacy.desk import Signer
from ..privacy.exporting import Sources
from ..settings import Settings
from ..tokens import LocalKey
from .vectors import spool_directory
from .wiring import privacy_key

SLICE = 5_000
"""Agents of the view that are looked at in one go; then requests get their turn."""


def forgotten_agents(settings: Settings, store: SqlStore) -> Forgotten:
    """Agents that must not go on from a model's history. Raises ConfigError, Unavailable."""
    marks = store.forgotten_marks()
    return Forgotten(privacy_key(settings), marks) if marks else Forgotten()


def make_erasures(
    settings: Settings, log: GroupCommit, store: SqlStore, view: RiskView, guard: Guard, status: PipelineStatus
) -> ErasureDesk:
    """Everything the desk stands on."""

    async def forget(subject: Subject) -> None:
        await forget_here(subject, store, view, guard)

    def signer() -> Signer:
        key = LocalKey.open(settings.data_dir)
        return Signer(key.sign_document, key.read_document)

    archive = settings.archive
    places = None
    if not settings.kafka.bootstrap_servers:
        places = Places(store, log, status, archive.directory, archive.vectors, spool_directory(settings))
    directory = None if settings.kafka.bootstrap_servers else settings.data_dir / "log"
    exported = Sources(store, directory, archive.directory, profile_of)
    return ErasureDesk(
        places,
        exported,
        lambda: privacy_key(settings),
        signer,
        forget,
        clock.now_ms,
        on_server=settings.store.url is not None,
    )


async def forget_here(subject: Subject, store: SqlStore, view: RiskView, guard: Guard) -> None:
    """What this process keeps in memory: the view, pins and approvals. The pipeline has forgotten the subject."""
    full = (subject.tenant, subject.issuer, subject.name)
    if subject.kind == "agent":
        row = await asyncio.to_thread(store.agent, *full)
        if row is None:
            view.forget(*full)
        else:  # it acts again, as somebody new
            view.apply(summaries([row]))
        guard.approvals.known.forget(full)
    await guard.approvals.load()  # what others' pins and approvals say was changed in the store
    names = NameEraser(subject.name, subject.pseudonym)
    entries = view.entries()
    for start in range(0, len(entries), SLICE):
        for entry in entries[start : start + SLICE]:
            told = entry.summary
            if told.name.tenant != subject.tenant:
                continue
            reasons, counterfactual = names.json(told.reasons), names.text(told.counterfactual)
            if (reasons, counterfactual) != (told.reasons, told.counterfactual):
                entry.summary = msgspec.structs.replace(told, reasons=reasons, counterfactual=counterfactual)
                entry.answer = None
        await asyncio.sleep(0)
