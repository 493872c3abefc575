"""The pipeline process of the embedded form: `python -m trustwatch.api.serve.worker`, started by the service.

A process of its own keeps answers at their speed while events are scored.
"""

from __future__ import annotations

import gc

from ...ingest.columns import ColumnEncoder
from ...ingest.dedup import DuplicateWindow
from ...ingest.log import LogReader
from ...scoring.delegation import EdgeCollector
from ...scoring.lifecycle.force import ModelsInForce
from ...scoring.pipeline import PARTITION, Committed, Pipeline
from ...scoring.processor import Processor
from ...scoring.residence import Residence
from ...scoring.vectors import VectorCollector
from ...scoring.warm import warm_up
from .. import clock
from .child import Child, run_child
from .erasing import forgotten_agents
from .vectors import open_spool
from .wiring import context, engine_settings, model_shelf, opened_store, pipeline_settings

ALIVE_EVERY_S = 0.5
POLICY_EVERY_S = 1.0
"""The policy file is looked at this often."""


class Worker:
    """One pipeline with its surroundings.

    Args:
        child: the process.
    """

    def __init__(self, child: Child) -> None:
        settings = child.settings
        self._child = child
        self._looked_at = 0.0
        self._told_at = 0.0
        self._spool = open_spool(settings)
        self.store = opened_store(settings)
        self.source = LogReader(settings.data_dir / "log")
        models = ModelsInForce(model_shelf(settings), clock.now_ms)
        chosen = models.choose(self.store.model_switch(PARTITION))
        model = models.load(chosen.version, chosen.digest)
        encoder, told = ColumnEncoder(model.salt, settings.domains()), context(settings)
        self._policy = told.policy
        warm_up(model, encoder, told)
        residence = Residence(model, engine_settings(settings), self.store)
        residence.forgotten = forgotten_agents(settings, self.store)
        residence.keep_out(one.who for one in self.store.open_erasures() if one.subject)
        processor = Processor(
            residence,
            encoder,
            DuplicateWindow(),
            told,
            edges=EdgeCollector(),
            models=models,
            vectors=None if self._spool is None else VectorCollector(),
        )
        self._vectors = processor.vectors
        self.pipeline = Pipeline(
            self.source,
            processor,
            self.store,
            told.policy,
            pipeline_settings(settings),
            clock.monotonic,
            child.sleep,
            self._committed,
        )

    def run(self) -> None:
        """Work until told to stop or nobody listens."""
        self.pipeline.start()
        gc.freeze()
        while not self._child.ending:
            self.pipeline.step()
            self._say_alive()
        self.pipeline.finish()

    def _committed(self, done: Committed) -> None:
        stages = self.pipeline.stages
        if self._spool is not None and self._vectors is not None:
            with stages.timed("vectors"):
                self._spool.append(*self._vectors.take())
                self._spool.roll_if_due()
            stages.counts["vectors_dropped"] = self._spool.dropped
        behind = self._behind(done.position.offset)
        self._child.sender.committed(done, behind, dict(stages.counts), dict(stages.seconds))
        self._told_at = clock.monotonic()

    def _say_alive(self) -> None:
        now = clock.monotonic()
        if now - self._looked_at >= POLICY_EVERY_S:
            self._looked_at = now
            if self._spool is not None:
                self._spool.roll_if_due()
            self._policy.refresh()
        if now - self._told_at >= ALIVE_EVERY_S:
            stages = self.pipeline.stages
            offset = self.pipeline.position.offset
            self._child.sender.alive(offset, self._behind(offset), dict(stages.counts), dict(stages.seconds))
            self._told_at = now

    def _behind(self, offset: int) -> int:
        """Records that wait behind *offset*."""
        return self.source.end_offset(PARTITION) - offset

    def close(self) -> None:
        """Release files and connections."""
        if self._spool is not None:
            self._spool.close()
        self.source.close()
        self.store.close()


def work(child: Child) -> None:
    """Run a worker until it is told to stop."""
    worker = Worker(child)
    try:
        worker.run()
    finally:
        worker.close()


if __name__ == "__main__":
    raise SystemExit(run_child(work))
