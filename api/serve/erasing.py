"""The desk of erasures of a running service, and what this process itself forgets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec

from ...ingest.archive.files import ArchiveFileKind as ArchiveKind
from ...ingest.erasing import ErasureSubject, NameEraser
from ...ingest.kafka import open_admin, open_reader
from ...ingest.log import GroupCommit
from ...scoring.channel import agent_summaries
from ...scoring.privacy import ErasedAgents
from ...scoring.store import SqlStore
from ...scoring.view import RiskView
from .. import clock
from ..console.profile import read_baseline_profile
from ..guard import PolicyDecisionPoint
from ..http.services import PipelineStatus
from ..privacy import EmbeddedErasureTargets, ErasureService, ErasureTargets
from ..privacy.archives import LocalArchives
from ..privacy.exporting import ExportSources
from ..privacy.proof import ProofSigner
from ..privacy.topic_places import BrokerClients, KafkaErasureTargets
from ..settings import Settings
from ..tokens import LocalSigningKey
from .roles import ServiceRoles
from .vectors import spool_directory
from .wiring import kafka_settings, open_service_privacy_key

DAY_MS = 86_400_000
ENTRIES_PER_SLICE = 5_000
"""Agents of the view that are looked at in one go; then requests get their turn."""


def load_forgotten_agents(settings: Settings, store: SqlStore) -> ErasedAgents:
    """Agents that must not go on from a model's history. Raises ConfigError, Unavailable."""
    marks = store.forgotten_marks()
    return ErasedAgents(open_service_privacy_key(settings), marks) if marks else ErasedAgents()


def make_erasure_service(
    settings: Settings,
    log: GroupCommit,
    store: SqlStore,
    view: RiskView,
    guard: PolicyDecisionPoint,
    status: PipelineStatus,
    roles: ServiceRoles = ServiceRoles(),  # noqa: B008
) -> ErasureService:
    """Everything the desk stands on."""

    async def forget(subject: ErasureSubject) -> None:
        await forget_in_memory(subject, store, view, guard)

    def signer() -> ProofSigner:
        key = LocalSigningKey.open(settings.data_dir)
        return ProofSigner(key.sign_document, key.read_document)

    on_topic = bool(settings.kafka.bootstrap_servers)
    archive = settings.archive
    places: ErasureTargets
    if on_topic:
        places = _kafka_targets(settings, log, store, status, roles)
    else:
        places = EmbeddedErasureTargets(
            store, log, status, archive.directory, archive.vectors, spool_directory(settings)
        )
    exported = ExportSources(
        store, None if on_topic else settings.data_dir / "log", archive.directory, read_baseline_profile
    )
    return ErasureService(
        places,
        exported,
        lambda: open_service_privacy_key(settings),
        signer,
        forget,
        clock.now_ms,
        on_server=settings.store.url is not None,
        leads=roles.workers,
    )


def _kafka_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, roles: ServiceRoles
) -> KafkaErasureTargets:
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
        lambda: status.work_counts,
        archive.retention_days * DAY_MS,
    )
    brokers = BrokerClients(kafka.topics, lambda topic: open_reader(kafka, (topic,)), lambda: open_admin(kafka))
    return KafkaErasureTargets(store, log, brokers, archives, frozenset(wanted))


async def forget_in_memory(
    subject: ErasureSubject, store: SqlStore, view: RiskView, guard: PolicyDecisionPoint
) -> None:
    """What this process keeps in memory: the view, pins and approvals. The pipeline has forgotten the subject."""
    full = (subject.tenant, subject.issuer, subject.name)
    if subject.kind == "agent":
        row = await asyncio.to_thread(store.agent, *full)
        if row is None:
            view.remove(*full)
        else:  # it acts again, as somebody new
            view.apply(agent_summaries([row]))
        guard.approval_workflow.active_interventions.remove_agent(full)
    await guard.approval_workflow.load_open()  # what others' pins and approvals say was changed in the store
    names = NameEraser(subject.name, subject.pseudonym)
    entries = view.entries()
    for start in range(0, len(entries), ENTRIES_PER_SLICE):
        for entry in entries[start : start + ENTRIES_PER_SLICE]:
            told = entry.summary
            if told.name.tenant != subject.tenant:
                continue
            reasons, counterfactual = names.erase_in_json(told.reasons), names.erase_in_text(told.counterfactual)
            if (reasons, counterfactual) != (told.reasons, told.counterfactual):
                entry.summary = msgspec.structs.replace(told, reasons=reasons, counterfactual=counterfactual)
                entry.cached_answer = None
        await asyncio.sleep(0)
