"""The pipeline process of the embedded form:

`python -m trustwatch.api.service.embedded_worker`, started by the service.

A process of its own keeps answers at their speed while events are scored.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import structlog

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KernelPart
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.retry import retry_until_available
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.pipeline.pipeline_context import CommittedChanges
from trustwatch.scoring.pipeline.processor import Processor, VectorCollector
from trustwatch.scoring.pipeline.settings import DEFAULT_TUNING
from trustwatch.scoring.pipeline.single_partition import SinglePartitionPipeline
from trustwatch.scoring.records.agents import AgentSummary
from trustwatch.scoring.records.commits import ONLY_PARTITION, Position
from trustwatch.scoring.records.erasures import PartitionErasure

from .. import clock
from ..child_process import ChildRuntime, run_child
from ..composition import (
    engine_settings,
    live_policy,
    load_forgotten_agents,
    open_model_registry,
    open_service_store,
    open_spool,
    policy_book,
    service_url,
)
from ..settings.reloading import SettingsChange
from .decision_log import log_decisions

HEARTBEAT_EVERY_S = 0.5
MAX_REST_S = 5.0
"""Seconds for which a worker that ends applies what waits; the next start applies the rest."""
POLICY_REFRESH_EVERY_S = 1.0
"""The policy file is looked at this often."""

_log = structlog.get_logger(__name__)


class EmbeddedPipelineWorker:
    """The pipeline of the embedded form, with its log, store and spool."""

    def __init__(self, child: ChildRuntime) -> None:
        settings = child.settings
        self._child = child
        self._policy_refreshed_at = 0.0
        self._reported_at = 0.0
        self._spool = open_spool(settings)
        self.store = open_service_store(settings)
        self.source = LogReader(settings.data_dir / "log")
        models = ActiveModels(open_model_registry(settings), clock.now_ms)
        chosen = models.choose(self.store.models.current_switch(ONLY_PARTITION))
        model = models.load(chosen.version, chosen.digest)
        self._policy = live_policy(settings)
        child.on_reload = self._use_policy
        self.pipeline = SinglePartitionPipeline(
            self.source,
            self._make_processor(models, model),
            self.store,
            self._policy,
            settings.pipeline,
            clock.monotonic,
            child.sleep,
            self._after_commit,
            on_risk=self._send_risk,
            service=service_url(settings),
            acts_at_every_level=any(actuator.every_level for actuator in settings.actuators),
        )

    def _make_processor(self, models: ActiveModels, model: TrainedModel) -> Processor:
        settings, identities = self._child.settings, self.store.identities
        encoder = ColumnEncoder(model.salt, settings.domains(), identities)
        compile_part(KernelPart.SCORING, lambda: model)
        engine = Engine(model, engine_settings(settings), self.store.agents, identities=identities)
        engine.agent_states.erased_agents = load_forgotten_agents(settings, self.store)
        open_erasures = self.store.erasures.list_open()
        engine.agent_states.keep_out_erased(erasure.erasure_subject for erasure in open_erasures if erasure.subject)
        return Processor(
            engine,
            encoder,
            DuplicateWindow(),
            self._policy,
            edges=EdgeCollector(),
            models=models,
            vectors=None if self._spool is None else VectorCollector(),
            compiled_elsewhere=True,
        )

    def _use_policy(self, change: SettingsChange) -> None:
        if change.changes_policy:
            self._policy.use(policy_book(change.settings))

    def run(self) -> None:
        """Work until told to stop or nobody listens."""
        stored = self._send_stored_position()
        _log.info("taking the log over", from_offset=stored, waiting=self._pending_records(stored))
        self.pipeline.start()
        gc.freeze()
        while not self._child.should_stop:
            self.pipeline.step()
            self._send_heartbeat()
        self._apply_rest()
        self.pipeline.finish()

    def _apply_rest(self) -> None:
        """Apply what the service took in before it ended: whoever looks into the database then finds it.

        A service that was killed has perhaps started again, and its worker waits for this one to end.
        """
        deadline = clock.monotonic() + MAX_REST_S
        while self._child.stop_requested and clock.monotonic() < deadline:
            if not self.pipeline.step():
                return

    def _send_stored_position(self) -> int:
        """Say first of all how far the store is: what is told while the partition is taken over builds on it."""
        stored = retry_until_available(
            lambda: self.store.partitions.position(ONLY_PARTITION), lambda _: self._child.sleep(DEFAULT_TUNING.retry_s)
        )
        self._child.sender.send_alive(stored.offset, 0, self._pending_records(stored.offset), {}, {})
        return stored.offset

    def _send_risk(
        self, position: Position, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure]
    ) -> None:
        self._child.sender.send_risk(position.offset, agents, erasures)

    def _after_commit(self, done: CommittedChanges) -> None:
        log_decisions(done.decisions)
        stages = self.pipeline.stages
        if self._spool is not None:
            with stages.timed("vectors"):
                self._spool.append(*done.vectors)
                self._spool.roll_if_due()
            stages.counts["vectors_dropped"] = self._spool.dropped_events
        behind = self._pending_records(max(done.position.offset, self.pipeline.risk_offset))
        self._child.sender.send_commit(done, behind, dict(stages.counts), dict(stages.seconds))
        self._reported_at = clock.monotonic()

    def _send_heartbeat(self) -> None:
        now = clock.monotonic()
        if now - self._policy_refreshed_at >= POLICY_REFRESH_EVERY_S:
            self._policy_refreshed_at = now
            if self._spool is not None:
                self._spool.roll_if_due()
            self._policy.refresh()
        if now - self._reported_at >= HEARTBEAT_EVERY_S:
            stages = self.pipeline.stages
            offset, risk_offset = self.pipeline.position.offset, self.pipeline.risk_offset
            behind = self._pending_records(max(offset, risk_offset))
            self._child.sender.send_alive(offset, risk_offset, behind, dict(stages.counts), dict(stages.seconds))
            self._reported_at = now

    def _pending_records(self, offset: int) -> int:
        """Records that wait behind *offset*."""
        return self.source.end_offset(ONLY_PARTITION) - offset

    def close(self) -> None:
        """Release files and connections."""
        self.pipeline.close()
        if self._spool is not None:
            self._spool.close()
        self.source.close()
        self.store.close()


def run_embedded_worker(child: ChildRuntime) -> None:
    """Run a worker until it is told to stop."""
    _log.info("a worker starts; it loads model and kernels first")
    worker = EmbeddedPipelineWorker(child)
    try:
        worker.run()
    finally:
        worker.close()


if __name__ == "__main__":
    raise SystemExit(run_child(run_embedded_worker))
