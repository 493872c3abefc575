"""Feedback rules in scoring: in matching events the named features get their usual value, before anything is scored.

So p-values, evidence and learning take such an event as ordinary in these features; all other features count as ever,
and hard signals, which look at the events themselves, fire as ever. One object belongs to one engine, that is to one
partition. A rule comes and goes with a record of the partition, so the same records give the same states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns, TenantDomains, canonical_target
from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURE_INDEX, FEATURES
from trustwatch.ingest.features.feature_vector import F_NETWORK, F_TARGET
from trustwatch.ingest.features.layout import AgentState
from trustwatch.ingest.features.row_observations import RowObservations
from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch_client.events import Resource

from ..records.feedback import FeedbackRule, PartitionRule
from .composites import recompute_composites, retract_session_effects, spread_to_implied

if TYPE_CHECKING:
    from trustwatch.ingest.features.feature_builder import SlotIndices

PROTECTED_FEATURES: frozenset[str] = frozenset(feature.name for feature in FEATURES if feature.signalled)
"""Features that hard signals speak of: no rule touches them."""

Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class RuleCoverage(NamedTuple):
    """The rows of a batch to which rules apply."""

    rows: Flags  # bool (n,)
    features: Flags  # bool (n, F): features that count as usual


class _ActiveRule:
    """A rule in memory, prepared for batches."""

    def __init__(self, holding: PartitionRule, hasher: NameHasher, identities: IdentityHasher, *, dirty: bool) -> None:
        rule = holding.rule
        self.rule = rule
        self.epoch, self.from_offset, self.until_offset = holding.epoch, holding.from_offset, holding.until_offset
        self.matched, self.last_ms = holding.matched, holding.last_ms
        self.dirty = dirty
        self.column, self.scope = _scope(rule, hasher, identities)
        self.tenant = np.uint64(hasher(rule.tenant))
        self.resource_hashes = np.zeros(0, np.uint64)
        if rule.resource is not None:
            canonical, _ = canonical_target(Resource(id=rule.resource), rule.tenant, TenantDomains({}))
            self.resource_hashes = np.array([hasher(rule.resource), hasher(canonical or rule.resource)], np.uint64)
        self.features = feature_mask(rule.features)

    def partition_rule(self, partition: int, epoch: int) -> PartitionRule:
        """Return the rule as it is stored. A rule that came since the last commit gets the epoch of this one."""
        return PartitionRule(
            self.rule, partition, self.epoch or epoch, self.from_offset, self.until_offset, self.matched, self.last_ms
        )


def _scope(rule: FeedbackRule, hasher: NameHasher, identities: IdentityHasher) -> tuple[int, np.uint64]:
    """Return the column of names that a rule matches, and the hash to match."""
    if rule.kind == "peer_group":
        return event_columns.GROUP, np.uint64(hasher(f"{rule.tenant}\x1f{rule.agent_type}"))
    name = rule.agent_identity
    if name is None:  # of 0.1
        return event_columns.AGENT_DRAW, np.uint64(int(rule.key))
    return event_columns.AGENT, np.uint64(identities.agent_key(*name))


def feature_mask(names: Iterable[str] | None) -> Flags:
    """Return the named features as bool (F,); None means all. Protected features are never included."""
    mask = np.zeros(FEATURE_COUNT, np.bool_)
    for name in FEATURE_INDEX if names is None else names:
        if name in FEATURE_INDEX and name not in PROTECTED_FEATURES:
            mask[FEATURE_INDEX[name]] = True
    return mask


def _is_in_sorted(values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> Flags:
    """Flag the *values* that are in the sorted *keys*. `numpy.isin` would sort both each time."""
    if not len(keys):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(keys, values)
    places[places == len(keys)] = 0
    return np.asarray(keys[places] == values)


class FeedbackRules:
    """The feedback rules of one partition.

    Args:
        usual: float64 (F,), the value of each feature that counts as usual.
    """

    def __init__(self, salt: bytes, usual: npt.NDArray[np.float64], identities: IdentityHasher) -> None:
        self._hash = NameHasher(salt)
        self._identities = identities
        self._usual = usual
        self._rules_by_id: dict[str, _ActiveRule] = {}
        self._agents: list[_ActiveRule] = []
        self._groups: list[_ActiveRule] = []
        self._agent_keys = self._old_agent_keys = self._group_keys = np.zeros(0, np.uint64)
        self.matched = 0
        """Events in which a rule counted since this object was made."""

    def __len__(self) -> int:
        """Number of active rules."""
        return len(self._agents) + len(self._groups)

    def use_usual_values(self, usual: npt.NDArray[np.float64]) -> None:
        """Use the usual values of another model with the same salt."""
        self._usual = usual

    def restore(self, holdings: Iterable[PartitionRule]) -> None:
        """Restore committed rules."""
        self._rules_by_id = {holding.rule.rule_id: self._active_rule(holding, dirty=False) for holding in holdings}
        self._index_rules()

    def adopt(self, rule: FeedbackRule, offset: int, at_ms: int) -> bool:
        """Activate a rule from *offset* on. Return False, and change nothing, if it is known or has already expired."""
        if rule.rule_id in self._rules_by_id or rule.expires_ms <= at_ms:
            return False
        self._rules_by_id[rule.rule_id] = self._active_rule(PartitionRule(rule, 0, 0, offset, -1, 0, 0), dirty=True)
        self._index_rules()
        return True

    def revoke(self, rule: FeedbackRule, offset: int) -> bool:
        """Revoke a rule permanently, even before it is known. Return whether it was active."""
        active = self._rules_by_id.get(rule.rule_id)
        if active is None:
            ended = PartitionRule(rule, 0, 0, offset, offset, 0, 0)
            self._rules_by_id[rule.rule_id] = self._active_rule(ended, dirty=True)
            return False
        if active.until_offset >= 0:
            return False
        active.until_offset, active.dirty = offset, True
        self._index_rules()
        return True

    def erase(self, subject: ErasureSubject) -> None:
        """Replace a name by its pseudonym. A rule about the agent then applies to no agent."""
        eraser = NameEraser(subject.name, subject.pseudonym)
        for rule_id, active in list(self._rules_by_id.items()):
            if active.rule.tenant != subject.tenant:
                continue
            erased = msgspec.json.decode(eraser.erase_in_command(msgspec.json.encode(active.rule)), type=FeedbackRule)
            if erased != active.rule:
                holding = msgspec.structs.replace(active.partition_rule(0, 0), rule=erased)
                self._rules_by_id[rule_id] = self._active_rule(holding, dirty=True)
        self._index_rules()

    def _active_rule(self, holding: PartitionRule, *, dirty: bool) -> _ActiveRule:
        return _ActiveRule(holding, self._hash, self._identities, dirty=dirty)

    def expire(self, now_ms: int, offset: int) -> None:
        """End the rules that have expired."""
        over = [active for active in (*self._agents, *self._groups) if active.rule.expires_ms <= now_ms]
        for active in over:
            active.until_offset, active.dirty = offset, True
        if over:
            self._index_rules()

    def _index_rules(self) -> None:
        """Group active rules by kind, in order of adoption."""
        open_ = sorted(
            (active for active in self._rules_by_id.values() if active.until_offset < 0),
            key=lambda active: (active.from_offset, active.rule.rule_id),
        )
        self._agents = [active for active in open_ if active.rule.kind == "agent"]
        self._groups = [active for active in open_ if active.rule.kind == "peer_group"]
        self._agent_keys, self._old_agent_keys, self._group_keys = (
            np.unique(np.array([active.scope for active in open_ if active.column == column], np.uint64))
            for column in (event_columns.AGENT, event_columns.AGENT_DRAW, event_columns.GROUP)
        )

    @property
    def has_uncommitted(self) -> bool:
        """True if a rule changed since the last commit was begun."""
        return any(active.dirty for active in self._rules_by_id.values())

    def uncommitted(self, partition: int, epoch: int) -> list[PartitionRule]:
        """Return the rules that the next commit writes; the same ones until `begin_commit`."""
        return [active.partition_rule(partition, epoch) for active in self._rules_by_id.values() if active.dirty]

    def begin_commit(self, partition: int, epoch: int) -> list[PartitionRule]:
        """Return the rules of `uncommitted` for a commit; later changes belong to the next one."""
        rules = self.uncommitted(partition, epoch)
        for active in self._rules_by_id.values():
            if active.dirty:
                active.dirty, active.epoch = False, active.epoch or epoch
        return rules

    def coverage(self, columns: EventColumns, received_ms: npt.NDArray[np.int64] | None = None) -> RuleCoverage | None:
        """Find and count the rows to which rules apply; return None, at almost no cost, if there are no rules."""
        if not self._agents and not self._groups:
            return None
        names = columns.names
        near = _is_in_sorted(names[:, event_columns.AGENT], self._agent_keys)
        near |= _is_in_sorted(names[:, event_columns.AGENT_DRAW], self._old_agent_keys)
        if self._groups:
            near |= _is_in_sorted(names[:, event_columns.GROUP], self._group_keys) & (
                columns.codes[:, event_columns.SELF_ASSERTED] == 0
            )
        rows = np.flatnonzero(near & (columns.codes[:, event_columns.OWN_DENIAL] == 0))
        if not len(rows):
            return None
        at_ms = columns.time_ms[rows]
        late = at_ms if received_ms is None else np.maximum(at_ms, received_ms[rows])
        features, hit = np.zeros((len(columns), FEATURE_COUNT), np.bool_), np.zeros(len(rows), np.bool_)
        self._mark_matches(self._agents, rows, columns, late, features, hit, np.arange(len(rows)))
        # An agent that only claims a peer group is not in it.
        members = np.flatnonzero(columns.codes[rows, event_columns.SELF_ASSERTED] == 0)
        self._mark_matches(self._groups, rows, columns, late, features, hit, members)
        if not hit.any():
            return None
        self.matched += int(hit.sum())
        covered = np.zeros(len(columns), np.bool_)
        covered[rows[hit]] = True
        return RuleCoverage(covered, features)

    def _mark_matches(
        self,
        rules: Sequence[_ActiveRule],
        rows: Rows,
        columns: EventColumns,
        late: npt.NDArray[np.int64],
        features: Flags,
        hit: Flags,
        places: Rows,
    ) -> None:
        """Mark the *features* of each rule in the rows that it matches among *places* of *rows*, and those places."""
        names, late = columns.names[rows[places]], late[places]
        for active in rules:
            mine = (names[:, active.column] == active.scope) & (names[:, event_columns.TENANT] == active.tenant)
            mine &= late < active.rule.expires_ms
            if len(active.resource_hashes):
                named = names[:, (event_columns.TARGET, event_columns.RESOURCE)]
                mine &= np.isin(named, active.resource_hashes).any(axis=1)
            if mine.any():
                matching = rows[places[mine]]
                features[matching] |= active.features
                active.matched += len(matching)
                active.last_ms = max(active.last_ms, int(columns.time_ms[matching].max()))
                active.dirty = True
                hit[places[mine]] = True

    def neutralise(
        self,
        covered: RuleCoverage,
        rows: Rows,
        slots: SlotIndices,
        columns: EventColumns,
        vectors: npt.NDArray[np.float64],
        observations: RowObservations,
        state: AgentState,
    ) -> None:
        """Set the features of covered *rows* to their usual values, and remove what follows from them.

        Args:
            vectors: float64 (n, F), changed in place; a value that is below the usual one stays.
        """
        rows = rows[covered.rows[rows]]
        if not len(rows):
            return
        named = spread_to_implied(covered.features[rows], observations.new_kinds[rows])
        before = vectors[rows]
        after = np.where(named, np.minimum(before, self._usual), before)
        recompute_composites(after, columns.codes[rows])
        retract_session_effects(
            before,
            after,
            named,
            columns.names[rows, event_columns.SESSION],
            slots[rows],
            observations.new_kinds[rows],
            state,
        )
        observations.told_targets[rows] &= ~named[:, F_TARGET]
        observations.new_network_p[rows[named[:, F_NETWORK]]] = 1.0
        # What is named is usual, however it came about.
        vectors[rows] = np.where(named, np.minimum(after, self._usual), after)
