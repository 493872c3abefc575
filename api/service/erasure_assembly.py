"""Assembly of the service of erasures: what has to forget, in this process, in the store, in files and on topics."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec

from trustwatch.ingest.archive.archive_files import ArchiveFileKind as ArchiveKind
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.pipeline.pipeline_status import PipelineStatus
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import agent_summary
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..access.decision_point import PolicyDecisionPoint
from ..agents.baseline_profile import read_baseline_profile
from ..brokers import open_admin, open_reader
from ..composition import (
    checkpoint_place,
    open_checkpoints_to_erase,
    open_service_privacy_key,
    principal_alias,
    spool_directory,
)
from ..http.agent_lookup import AgentResolver
from ..http.auth.signing import LocalSigningKey
from ..http.store_executor import StoreExecutor
from ..privacy.agent_export import ExportSources
from ..privacy.checkpoint_erasure import CheckpointErasure
from ..privacy.embedded_targets import EmbeddedErasureTargets, ErasureTargets
from ..privacy.erasure_steps import ProofSigner
from ..privacy.local_archives import LocalArchives
from ..privacy.service import ErasureService
from ..privacy.topic_targets import BrokerClients, TopicErasureTargets
from ..settings.root import Settings
from .backends import ServiceRoles

ENTRIES_PER_SLICE = 5_000
"""Agents of the view that are looked at in one go; then requests get their turn."""


def make_erasure_service(
    settings: Settings,
    log: GroupCommit,
    store: SqlStore,
    view: RiskView,
    decision_point: PolicyDecisionPoint,
    status: PipelineStatus,
    agents: AgentResolver,
    executor: StoreExecutor,
    roles: ServiceRoles = ServiceRoles(),  # noqa: B008
) -> ErasureService:
    """The service of erasures."""

    async def forget(subject: ErasureSubject, ordered_ms: int) -> None:
        await forget_in_memory(subject, ordered_ms, store, view, decision_point)

    def signer() -> ProofSigner:
        key = LocalSigningKey.open(settings.data_dir)
        return ProofSigner(key.sign_document, key.read_document)

    on_topic = settings.distributed
    log_folder = None if on_topic else settings.data_dir / "log"
    make_targets = _topic_targets if on_topic else _embedded_targets
    return ErasureService(
        make_targets(settings, log, store, status, roles),
        ExportSources(store, log_folder, settings.archive.directory, read_baseline_profile),
        agents,
        executor,
        principal_alias(settings),
        lambda: open_service_privacy_key(settings),
        signer,
        forget,
        clock.now_ms,
        on_server=settings.store.url is not None,
        leads=roles.workers,
    )


def _embedded_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, _roles: ServiceRoles
) -> ErasureTargets:
    archive, checkpoints = settings.archive, CheckpointErasure(open_checkpoints_to_erase(settings), store)
    return EmbeddedErasureTargets(
        store, log, status, archive.directory, archive.vectors, spool_directory(settings), checkpoints
    )


def _topic_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, roles: ServiceRoles
) -> ErasureTargets:
    broker_settings, archive = settings.brokers, settings.archive
    kinds: dict[ArchiveKind, Path | None] = {"events": archive.directory, "vectors": archive.vectors}
    folders = {kind: folder for kind, folder in kinds.items() if folder is not None}
    ours = {"events": roles.archiver, "vectors": roles.workers}
    archives = LocalArchives(
        store,
        {kind: folder for kind, folder in folders.items() if ours[kind]},
        broker_settings.names.events,
        spool_directory(settings),
        socket.gethostname(),
        lambda: status.work_counts,
        archive.retention_days * DAY_MS,
    )
    brokers = BrokerClients(
        broker_settings.names, lambda topic: open_reader(broker_settings, (topic,)), lambda: open_admin(broker_settings)
    )
    if roles.workers:
        checkpoints = CheckpointErasure(open_checkpoints_to_erase(settings), store)
    else:  # the folder may be on another host
        checkpoints = CheckpointErasure({}, store, checkpoint_place(settings) or "")
    return TopicErasureTargets(store, log, brokers, archives, frozenset(folders), checkpoints)


async def forget_in_memory(
    subject: ErasureSubject, ordered_ms: int, store: SqlStore, view: RiskView, decision_point: PolicyDecisionPoint
) -> None:
    """Forget a subject in this process: the view, pins and approvals. The pipeline has forgotten it already.

    An agent whose first event is later than *ordered_ms*, the arrival of the order, acts again as somebody new; its row
    may not be stored yet.
    """
    full = (subject.tenant, subject.issuer, subject.name)
    if subject.kind == "agent":
        row, in_view = await asyncio.to_thread(store.agents.get, *full), view.get(*full)
        if row is not None and (in_view is None or in_view.summary.evaluated_ms <= row.evaluated_ms):
            view.apply([agent_summary(row)])
        elif row is None and in_view is not None and in_view.summary.first_seen_ms < ordered_ms:
            view.remove(*full)
        decision_point.approval_workflow.active_interventions.remove_agent(full)
    await decision_point.approval_workflow.load_open()  # what others' pins and approvals say was changed in the store
    names = NameEraser(subject.name, subject.pseudonym)
    entries = view.entries()
    for start in range(0, len(entries), ENTRIES_PER_SLICE):
        for entry in entries[start : start + ENTRIES_PER_SLICE]:
            summary = entry.summary
            if summary.name.tenant != subject.tenant:
                continue
            redacted = msgspec.structs.replace(
                summary,
                reasons=names.erase_in_json(summary.reasons, keep_members=True),
                counterfactual=names.erase_in_text(summary.counterfactual),
                indicators=names.erase_in_json(summary.indicators, keep_members=True),
            )
            if redacted != summary:
                entry.summary, entry.cached_answer = redacted, None
        await asyncio.sleep(0)
