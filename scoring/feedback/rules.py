"""What rules do to scoring: in matching events the named features get their usual value, before anything is scored.

So p-values, evidence and learning take such an event as ordinary in these features; all other features count as ever,
and hard signals, which look at the events themselves, fire as ever. One object belongs to one engine, that is to one
partition. A rule comes and goes with a record of the partition, so the same records give the same states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as c
from ...ingest.columns import EventColumns
from ...ingest.events import Resource
from ...ingest.features.kernel import Scratch
from ...ingest.features.layout import AgentState
from ...ingest.features.table import COUNT, FEATURES, INDEX
from ...ingest.hashing import NameHasher
from ...ingest.targets import TenantDomains, canonical_target
from .composites import follow, recompute, spread
from .values import Holding, Rule

if TYPE_CHECKING:
    from ...ingest.features.slots import Slots

PROTECTED: frozenset[str] = frozenset(one.name for one in FEATURES if one.signalled)
"""Features that hard signals speak of: no rule touches them."""

Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class Covered(NamedTuple):
    """Rows of a batch that rules speak of.

    Attributes:
        rows: bool (n,).
        features: bool (n, F): features that count as usual.
    """

    rows: Flags
    features: Flags


class _Held:
    """A rule in memory, made ready for batches.

    Attributes:
        scope: hash of agent or peer group.
        things: hashes of the resource; empty = any.
        features: bool (F,).
        dirty: whether it differs from what was committed last.
    """

    def __init__(self, holding: Holding, hasher: NameHasher, *, dirty: bool) -> None:
        rule = holding.rule
        self.rule = rule
        self.epoch, self.from_offset, self.until_offset = holding.epoch, holding.from_offset, holding.until_offset
        self.matched, self.last_ms = holding.matched, holding.last_ms
        self.dirty = dirty
        of_group = rule.kind == "peer_group"
        self.scope = np.uint64(hasher(f"{rule.tenant}\x1f{rule.agent_type}") if of_group else int(rule.key))
        self.things = _things(rule, hasher)
        self.features = feature_mask(rule.features)

    def holding(self, partition: int, epoch: int) -> Holding:
        """As it is stored. A rule that came since the last commit gets the epoch of this one."""
        return Holding(
            self.rule, partition, self.epoch or epoch, self.from_offset, self.until_offset, self.matched, self.last_ms
        )


def feature_mask(names: Iterable[str] | None) -> Flags:
    """Named features as bool (F,); None = all but the protected ones, which are never among them."""
    mask = np.zeros(COUNT, np.bool_)
    for name in INDEX if names is None else names:
        if name in INDEX and name not in PROTECTED:
            mask[INDEX[name]] = True
    return mask


def _among(values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> Flags:
    """Which of *values* are in *keys*, which are sorted; `isin` would sort both each time."""
    if not len(keys):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(keys, values)
    places[places == len(keys)] = 0
    return np.asarray(keys[places] == values)


def _things(rule: Rule, hasher: NameHasher) -> npt.NDArray[np.uint64]:
    if rule.resource is None:
        return np.zeros(0, np.uint64)
    canonical, _ = canonical_target(Resource(id=rule.resource), rule.tenant, TenantDomains({}))
    return np.array(sorted({hasher(rule.resource), hasher(canonical or rule.resource)}), np.uint64)


class FeedbackRules:
    """Rules of one partition.

    Args:
        salt: key of the model's name hashes.
        usual: float64 (F,), the value of each feature that counts as usual.
    """

    def __init__(self, salt: bytes, usual: npt.NDArray[np.float64]) -> None:
        self._hash = NameHasher(salt)
        self._usual = usual
        self._known: dict[str, _Held] = {}
        self._agents: list[_Held] = []
        self._groups: list[_Held] = []
        self._agent_keys = self._group_keys = np.zeros(0, np.uint64)
        self.matched = 0
        """Events in which a rule counted since this object was made."""

    def __len__(self) -> int:
        """Rules in force."""
        return len(self._agents) + len(self._groups)

    def use(self, usual: npt.NDArray[np.float64]) -> None:
        """Another model of the same salt says what is usual from now on."""
        self._usual = usual

    def restore(self, holdings: Iterable[Holding]) -> None:
        """Go on from what was committed."""
        self._known = {one.rule.rule_id: _Held(one, self._hash, dirty=False) for one in holdings}
        self._sort()

    def adopt(self, rule: Rule, offset: int, at_ms: int) -> bool:
        """Hold to a rule from *offset* on; False = it is known, or over before it began: nothing changes."""
        if rule.rule_id in self._known or rule.expires_ms <= at_ms:
            return False
        self._known[rule.rule_id] = _Held(Holding(rule, 0, 0, offset, -1, 0, 0), self._hash, dirty=True)
        self._sort()
        return True

    def revoke(self, rule: Rule, offset: int) -> bool:
        """Hold to it no more, for good, also where it was not known yet; whether it held."""
        held = self._known.get(rule.rule_id)
        if held is None:
            self._known[rule.rule_id] = _Held(Holding(rule, 0, 0, offset, offset, 0, 0), self._hash, dirty=True)
            return False
        if held.until_offset >= 0:
            return False
        self._end(held, offset)
        self._sort()
        return True

    def expire(self, now_ms: int, offset: int) -> None:
        """Time has passed: end what is over."""
        over = [held for held in (*self._agents, *self._groups) if held.rule.expires_ms <= now_ms]
        for held in over:
            self._end(held, offset)
        if over:
            self._sort()

    def _end(self, held: _Held, offset: int) -> None:
        held.until_offset, held.dirty = offset, True

    def _sort(self) -> None:
        """Rules in force by kind, in the order in which they came."""
        open_ = sorted(
            (held for held in self._known.values() if held.until_offset < 0),
            key=lambda held: (held.from_offset, held.rule.rule_id),
        )
        self._agents = [held for held in open_ if held.rule.kind == "agent"]
        self._groups = [held for held in open_ if held.rule.kind == "peer_group"]
        self._agent_keys = np.unique(np.array([held.scope for held in self._agents], np.uint64))
        self._group_keys = np.unique(np.array([held.scope for held in self._groups], np.uint64))

    def changed(self, partition: int, epoch: int) -> list[Holding]:
        """What the next commit is to write. Until `settled` it stays changed."""
        return [held.holding(partition, epoch) for held in self._known.values() if held.dirty]

    def settled(self, epoch: int) -> None:
        """What `changed` gave is in the store."""
        for held in self._known.values():
            if held.dirty:
                held.dirty, held.epoch = False, held.epoch or epoch

    def covering(self, columns: EventColumns, received_ms: npt.NDArray[np.int64] | None = None) -> Covered | None:
        """Rows that rules speak of, counted; None where there are none, which costs next to nothing.

        Args:
            columns: a batch; peer groups are those that the agents are known to have.
            received_ms: when each event arrived; a date that is put back keeps no rule alive.
        """
        if not self._agents and not self._groups:
            return None
        names = columns.names
        near = _among(names[:, c.AGENT], self._agent_keys)
        if self._groups:
            near |= _among(names[:, c.GROUP], self._group_keys) & (columns.codes[:, c.SELF_ASSERTED] == 0)
        rows = np.flatnonzero(near & (columns.codes[:, c.OWN_DENIAL] == 0))
        if not len(rows):
            return None
        at_ms = columns.time_ms[rows]
        late = at_ms if received_ms is None else np.maximum(at_ms, received_ms[rows])
        features = np.zeros((len(columns), COUNT), np.bool_)
        hit = self._mark(self._agents, c.AGENT, rows, columns, late, features)
        vouched = columns.codes[rows, c.SELF_ASSERTED] == 0  # who claims a peer group is not of it
        hit |= self._mark(self._groups, c.GROUP, rows[vouched], columns, late[vouched], features, len(rows), vouched)
        if not hit.any():
            return None
        self.matched += int(hit.sum())
        covered = np.zeros(len(columns), np.bool_)
        covered[rows[hit]] = True
        return Covered(covered, features)

    def _mark(
        self,
        rules: Sequence[_Held],
        column: int,
        rows: Rows,
        columns: EventColumns,
        late: npt.NDArray[np.int64],
        features: Flags,
        total: int = -1,
        places: Flags | None = None,
    ) -> Flags:
        """Mark the features of each rule in the rows that it matches; returns which of all rows near were hit."""
        hit = np.zeros(len(rows), np.bool_)
        scopes = columns.names[rows, column]
        for held in rules:
            mine = (scopes == held.scope) & (late < held.rule.expires_ms)
            if len(held.things):
                named = columns.names[rows][:, (c.TARGET, c.RESOURCE)]
                mine &= np.isin(named, held.things).any(axis=1)
            if mine.any():
                matching = rows[mine]
                features[matching] |= held.features
                held.matched += len(matching)
                held.last_ms = max(held.last_ms, int(columns.time_ms[matching].max()))
                held.dirty = True
                hit |= mine
        if places is None:
            return hit
        whole = np.zeros(total, np.bool_)
        whole[places] = hit
        return whole

    def neutralise(
        self,
        covered: Covered,
        rows: Rows,
        slots: Slots,
        columns: EventColumns,
        vectors: npt.NDArray[np.float64],
        found: Scratch,
        state: AgentState,
    ) -> None:
        """Give the features of covered *rows* their usual values, and take what follows from them back.

        Args:
            rows: of a round, each of another agent.
            vectors: float64 (n, F), changed in place; a value that is below the usual one stays.
            state: short-term state of the agents, which the next events are measured against.
        """
        rows = rows[covered.rows[rows]]
        if not len(rows):
            return
        named = spread(covered.features[rows], found.fresh[rows])
        before = vectors[rows]
        after = np.where(named, np.minimum(before, self._usual), before)
        recompute(after, columns.codes[rows])
        follow(before, after, named, columns.names[rows, c.SESSION], slots[rows], found.fresh[rows], state)
        # What is named is usual, however it came about.
        vectors[rows] = np.where(named, np.minimum(after, self._usual), after)
