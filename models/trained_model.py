"""A trained model as one value: what is normal (baseline, agents' histories), the detector, how busy groups are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.identities import AgentHash

from .betting import AlarmTail
from .calibration import group_index
from .call_challenges import CallChallenges
from .concerns import ByConcern
from .detector import ForestDetector
from .input_checks import Flags, Floats, Ids, Ints

ODD_SHAPE = (2, 4)
"""Concerns and levels by which anomalous events of an agent are counted; see `scoring.engine.usual_anomalies`."""

HALF_COVERED_EVENTS = 200.0
"""Number of held-out events at which a peer group is half known."""


@dataclass(frozen=True, slots=True)
class AgentSeeds:
    """States of the agents at the end of the training history, from which they continue."""

    # uint64 (a,), ascending: first halves of the agents' identities under the model's salt
    keys: Ids
    checks: Ids  # uint64 (a,), the second halves (`identities.AgentHash`)
    rows: npt.NDArray[Any]  # structured (a,) of dtype `layout.STATE_ROW`
    events: Ints  # int64 (a,), events each agent has shown
    # float32 (a, 2, 4), those of the validated days that reached each of the anomaly levels of
    # `scoring.engine.usual_anomalies`; zeros if nothing was validated
    odd: npt.NDArray[np.float32]
    rehearsed: npt.NDArray[np.float32]  # float32 (a,), all events of those days

    @staticmethod
    def unvalidated(keys: Ids, checks: Ids, rows: npt.NDArray[Any], events: Ints) -> AgentSeeds:
        """Return seeds of agents whose usual anomalies are unknown."""
        odd, rehearsed = np.zeros((len(keys), *ODD_SHAPE), np.float32), np.zeros(len(keys), np.float32)
        return AgentSeeds(keys, checks, rows, events, odd, rehearsed)

    @staticmethod
    def empty() -> AgentSeeds:
        """Return the seeds of a history without agents."""
        nothing = np.zeros(0, np.uint64)
        return AgentSeeds.unvalidated(nothing, nothing, np.zeros(0, layout.STATE_ROW), np.zeros(0, np.int64))

    def find(self, identities: Sequence[AgentHash] | Ids) -> Ints:
        """Return the position of each agent (n,); -1 if the history does not have it.

        Args:
            identities: of the agents under the model's salt; in an array of shape (n, 2), too.
        """
        if not len(self.keys) or not len(identities):
            return np.full(len(identities), -1, np.int64)
        keys, checks = np.array(identities, np.uint64).T
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.keys[at] == keys) & (self.checks[at] == checks), at, -1)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """All data that scoring needs. Immutable."""

    detector: ForestDetector  # feature vectors in, scores and p-values out
    baseline: Baseline  # what is normal in each scope
    seeds: AgentSeeds  # states from which known agents continue
    salt: bytes  # key of the name hashes that baseline and seeds are written in
    groups: Ids  # uint64 (g,), known peer groups; entry 0 is the fleet (0), the others ascend
    group_rates: Floats  # float64 (g,), mean events of an active agent per day
    group_events: Ints  # int64 (g,), held-out events of the group's calibration
    version: str  # written into every decision
    baseline_version: str  # digest of the baseline
    # in (0, 1], how far the evidence of each concern falls short of independence (`model_training.dependence_exponent`)
    exponents: ByConcern[float]
    alarms: ByConcern[AlarmTail]  # how high the evidence of each concern climbs on agents of the history
    window_ms: tuple[int, int]  # first and last event time of the history
    # what verdicts on calls rest on; None for a model that was trained before there were verdicts on calls
    challenges: CallChallenges | None = None
    # types of resources whose answers are sensitive, as they were when it was trained; the baseline holds their hashes
    sensitive_types: tuple[str, ...] = ()
    # in (0, 1], rate of honest events whose target no person named and no other task knows
    # (`is_told_new`); 1, and so no evidence, if no sender reports it, and in earlier models
    told_target_rate: float = 1.0

    def target_evidence(self, unnamed: Flags) -> Floats:
        """Return the evidence of compromise (n,), decades, of targets that no person named (where *unnamed*, (n,))."""
        return np.where(unnamed, -np.log10(self.told_target_rate), 0.0)

    @property
    def learns(self) -> bool:
        """True if the model has seen no events: it scores no event, and every agent is unknown."""
        return int(self.group_events[0]) == 0

    def group_rows(self, groups: Ids) -> Ints:
        """Return the row of each group in `groups`; 0 (the fleet) for unknown groups."""
        return self.peer_groups(groups)[0]

    def peer_groups(self, groups: Ids) -> tuple[Ints, Floats]:
        """Return the row of each group (n,), as `group_rows`, and how well it is known, as `coverage`."""
        rows, coverage = np.empty(len(groups), np.int64), np.empty(len(groups))
        _look_up_groups(np.ascontiguousarray(groups), self.groups, self.group_events, rows, coverage)
        return rows, coverage

    def group_row(self, group: np.uint64) -> int:
        return int(self.group_rows(np.array([group], np.uint64))[0])

    @property
    def counted_concerns(self) -> list[int]:
        """Numbers of the concerns that have a share of the alert budget and so change levels."""
        return [at for at, share in enumerate(self.detector.budget_shares) if share > 0.0]

    def coverage(self, groups: Ids) -> Floats:
        """Return how well each peer group is known, in [0, 1); 0 if the history does not have it."""
        return self.peer_groups(groups)[1]


@allocation_free
def _look_up_groups(groups: Ids, ids: Ids, held_out: Ints, rows: Ints, coverage: Floats) -> None:
    for at in range(len(groups)):
        rows[at] = group_index(ids, groups[at])
        events = np.float64(held_out[rows[at]]) if rows[at] > 0 else 0.0
        coverage[at] = events / (events + HALF_COVERED_EVENTS)
