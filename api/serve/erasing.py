"""The desk of erasures of a running service, and what this process itself forgets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec

from ...ingest.archive.files import Kind as ArchiveKind
from ...ingest.erasing import NameEraser, Subject
from ...ingest.kafka import open_admin, open_reader
from ...ingest.log import GroupCommit
from ...scoring.channel import summaries
from ...scoring.privacy import Forgotten
from ...scoring.store import SqlStore
from ...scoring.view import RiskView
from .. import clock
from ..console.profile import profile_of
from ..guard import Guard
from ..http.services import PipelineStatus
from ..privacy import ErasureDesk, Everywhere, Places
from ..privacy.archives import LocalArchives
from ..privacy.exporting import Sources
from ..privacy.proof import Signer
from ..privacy.topic_places import Brokers, TopicPlaces
from ..settings import Settings
from ..tokens import LocalKey
from .roles import Roles
from .vectors import spool_directory
from .wiring import kafka_settings, privacy_key

DAY_MS = 86_400_000
SLICE = 5_000
"""Agents of the view that are looked at in one go; then requests get their turn."""


def forgotten_agents(settings: Settings, store: SqlStore) -> Forgotten:
    """Agents that must not go on from a model's history. Raises ConfigError, Unavailable."""
    marks = store.forgotten_marks()
    return Forgotten(privacy_key(settings), marks) if marks else Forgotten()


def make_erasures(
    settings: Settings,
    log: GroupCommit,
    store: SqlStore,
    view: RiskView,
    guard: Guard,
    status: PipelineStatus,
    roles: Roles = Roles(),  # noqa: B008
) -> ErasureDesk:
    """Everything the desk stands on."""

    async def forget(subject: Subject) -> None:
        await forget_here(subject, store, view, guard)

    def signer() -> Signer:
        key = LocalKey.open(settings.data_dir)
        return Signer(key.sign_document, key.read_document)

    on_topic = bool(settings.kafka.bootstrap_servers)
    archive = settings.archive
    places: Everywhere
    if on_topic:
        places = _on_topic(settings, log, store, status, roles)
    else:
        places = Places(store, log, status, archive.directory, archive.vectors, spool_directory(settings))
    exported = Sources(store, None if on_topic else settings.data_dir / "log", archive.directory, profile_of)
    return ErasureDesk(
        places,
        exported,
        lambda: privacy_key(settings),
        signer,
        forget,
        clock.now_ms,
        on_server=settings.store.url is not None,
        leads=roles.workers,
    )


def _on_topic(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, roles: Roles
) -> TopicPlaces:
    kafka, archive = kafka_settings(settings), settings.archive
    kinds: dict[ArchiveKind, Path | None] = {"events": archive.directory, "vectors": archive.vectors}
    wanted = {kind: folder for kind, folder in kinds.items() if folder is not None}
    ours = {"events": roles.archiver, "vectors": roles.workers}
    archives = LocalArchives(
        store,
        {kind: folder for kind, folder in wanted.items() if ours[kind]},
        kafka.topics.events,
        spool_directory(settings),
        socket.gethostname(),
        lambda: status.counts,
        archive.retention_days * DAY_MS,
    )
    brokers = Brokers(kafka.topics, lambda topic: open_reader(kafka, (topic,)), lambda: open_admin(kafka))
    return TopicPlaces(store, log, brokers, archives, frozenset(wanted))


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
