"""Preview of a feedback rule over the last days, and labels made of people's judgements of decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest import columns
from trustwatch.ingest.columns import ColumnEncoder, MemoizedFunction
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.models.trained_model import TrainedModel

from ..engine.engine import Engine, EngineSettings
from ..engine.scored_batch import ScoredBatch
from ..pipeline.processor import AppliedBatch, Processor
from ..policy.book import LivePolicy, PolicyBook
from ..records.agents import AgentName, RiskLevel
from ..records.decisions import Decision
from ..records.feedback import Feedback, FeedbackRule
from ..store.database import MAX_PAGE, iterate_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store.database import Tenants
    from ..store.feedback_store import FeedbackStore


def feedback_labels(feedback: FeedbackStore, tenants: Tenants = None, since_ms: int = 0) -> Iterator[Feedback]:
    """Return all judgements that are not revoked and whose window ends after *since_ms*, newest first. Raises
    Unavailable.

    A `true_positive` keeps the events of its window out of training; after a `false_positive`, which remains a label
    when its rule has expired, training may take them as normal.
    """
    for label in iterate_pages(lambda cursor: feedback.page(tenants, limit=MAX_PAGE, cursor=cursor)):
        if label.status not in ("revoking", "revoked") and label.until_ms > since_ms:
            yield label


# A preview runs the same history through the same processor twice, without a rule and with it.


ANOMALOUS_P_VALUE = 0.05
"""p-value up to which an event is anomalous: it raises, and is learned one time in eight."""
MAX_EXPLAINED = 2_000
"""Maximum number of anomalous events that are explained: it costs as much as scoring them."""
_MAX_ANOMALOUS_FEATURES = 5
MAX_LISTED = 200
"""Alerts and detections that a preview lists; the rest is counted."""
_MAX_REASONS = 3


class MarkedDecision(msgspec.Struct, frozen=True):
    """The decision to label. `key` is its agent's key in decimal."""

    decision_id: str
    key: str
    event_id: str
    event_time_ms: int
    level: int


class PreviewJob(msgspec.Struct, frozen=True):
    """A preview to compute: *rule* over the events from *from_ms* until *until_ms*."""

    rule: FeedbackRule
    marked: MarkedDecision
    from_ms: int
    until_ms: int


class _OwnerAgent(msgspec.Struct, gc=False):
    id: str
    issuer: str | None = None


class _EventOwner(msgspec.Struct, gc=False):
    agent: _OwnerAgent
    tenant: str | None = None


class _RuleCommand(msgspec.Struct):
    """A release (by name, or by an unkeyed hash in 0.1), or a command about a rule."""

    key: str = ""
    tenant: str = ""
    issuer: str = ""
    agent_id: str = ""
    rule: Any = None


class RecordFilter:
    """Selects the records that concern some agents: an event changes only the state of its own agent."""

    def __init__(self, keys: Collection[int], identities: IdentityHasher) -> None:
        self._keys = frozenset(keys)
        self._key_of = MemoizedFunction(identities.agent_key)
        self._owner_decoder = msgspec.json.Decoder(_EventOwner)
        self._command_decoder = msgspec.json.Decoder(_RuleCommand)

    def keeps(self, record: Record) -> bool:
        """Return whether a record concerns one of the agents, or all of them (time, rules)."""
        if record.kind == RecordKind.EVENT:
            try:
                whose = self._owner_decoder.decode(record.payload)
            except msgspec.DecodeError:
                return False
            return self._key_of[whose.tenant or "", whose.agent.issuer or "", whose.agent.id] in self._keys
        if record.kind == RecordKind.CONTROL:
            try:
                command = self._command_decoder.decode(record.payload)
                if command.rule is not None or not command.agent_id:
                    return True  # of 0.1: the engine finds its agent
                return self._key_of[command.tenant, command.issuer, command.agent_id] in self._keys
            except (msgspec.DecodeError, ValueError):
                return False
        return record.kind == RecordKind.TICK


class PreviewContext(NamedTuple):
    """Model, settings, lists and identities that both runs share."""

    model: TrainedModel
    settings: EngineSettings
    domains: Mapping[str, Sequence[str]]
    identities: IdentityHasher


class RuleComparison:
    """Runs one partition's history with and without the rule. Records come in the order in which they were logged.

    The marked decision's agent is in a rise: alerts one above the other, without a fall between them. A rule that is
    right about the marked alert also removes those that only led up to it: they detect nothing else. Whether they did
    is known once the rise reaches the marked decision, or ends.
    """

    def __init__(self, job: PreviewJob, context: PreviewContext, labels: Iterable[Feedback]) -> None:
        self._job = job
        self._runs = (_make_processor(context), _make_processor(context))
        self._rule_adopted = False
        self._next = 0
        self._labels = [label for label in labels if label.verdict == "true_positive"]
        self._peaks = np.zeros((len(self._labels), 2), np.int64)
        self.agents: set[int] = set()
        """Agents with an event that the rule makes less anomalous."""
        self.first_ms = 0
        """Time of the first record that counts."""
        self.events = 0
        self.alerts = [0, 0]
        self.removed_alerts: list[dict[str, Any]] = []
        self.removed_alert_count = 0
        self._rise: list[dict[str, Any]] = []  # removed alerts that may still lead to the marked decision
        self._rise_level = -1
        self.lost_detections: list[dict[str, Any]] = []
        self.lost_detection_count = 0
        self.still_odd: Counter[str] = Counter()
        """Events that are anomalous even with the rule, by the feature that makes them so."""

    @property
    def matched(self) -> int:
        """Number of events to which the rule would have applied."""
        rules = self._runs[1].engine.feedback_rules.uncommitted(0, 0)
        return sum(rule.matched for rule in rules if rule.rule.rule_id == self._job.rule.rule_id)

    def apply_records(self, records: Sequence[Record]) -> None:
        """Apply records that a `RecordFilter` selected."""
        begin = 0
        if not self._rule_adopted:
            begin = next((at for at, one in enumerate(records) if one.received_ms >= self._job.from_ms), len(records))
            self._apply(records[:begin])
        if begin == len(records):
            return
        if not self._rule_adopted:
            self._runs[1].engine.feedback_rules.adopt(self._job.rule, self._next, 0)
            self._rule_adopted, self.first_ms = True, records[begin].received_ms
        before, after = self._apply(records[begin:])
        self.events += before.events
        levels: dict[int, int] = {}
        for (without_rule, offsets), (with_rule, _) in zip(before.scored, after.scored, strict=True):
            differing = without_rule.p_values != with_rule.p_values
            self.agents.update(without_rule.columns.names[differing, columns.AGENT].tolist())
            levels.update(zip(offsets.tolist(), with_rule.levels[:, 1].tolist(), strict=True))
            # The features outside the rule that keep events anomalous.
            touched = (without_rule.vectors != with_rule.vectors).any(axis=1) & (
                with_rule.p_values <= ANOMALOUS_P_VALUE
            )
            rows = np.flatnonzero(touched)[: max(0, MAX_EXPLAINED - self.still_odd.total())]
            if len(rows):
                shares = self._runs[1].engine.model.detector.explain(with_rule.effective_vectors(rows.tolist()))
                self.still_odd.update(FEATURE_NAMES[feature] for feature in shares.argmax(axis=1).tolist())
            self._update_peaks(without_rule, with_rule)
        self.alerts[0] += sum(map(_is_alert, before.decisions))
        self.alerts[1] += sum(map(_is_alert, after.decisions))
        for decision in filter(_is_alert, before.decisions):
            self.count_alert(decision, levels.get(decision.offset, decision.level))

    def _apply(self, records: Sequence[Record]) -> tuple[AppliedBatch, AppliedBatch]:
        batch = RecordBatch(0, self._next, list(records))
        self._next = batch.next_offset
        return self._runs[0].apply(batch), self._runs[1].apply(batch)

    def count_alert(self, decision: Decision, level_with_rule: int) -> None:
        """Count an alert of the run without the rule; *level_with_rule* is the agent's level with it."""
        marked = self._job.marked
        mine = decision.agent.key == int(marked.key)
        if mine:
            if decision.previous_level != self._rise_level:
                self._end_rise()
            self._rise_level = decision.level
        if level_with_rule >= decision.level:
            return
        same_event = decision.event_id == marked.event_id
        is_marked = mine and (same_event if marked.event_id else decision.event_time_ms == marked.event_time_ms)
        alert = _alert_record(
            decision.agent, decision.event_time_ms, decision.event_id, decision.level, level_with_rule
        )
        alert["reasons"] = [reason.text for reason in decision.reasons[:_MAX_REASONS]]
        alert["marked"] = is_marked
        self.removed_alert_count += 1
        if len(self.removed_alerts) < MAX_LISTED:
            self.removed_alerts.append(alert)
        if is_marked:
            for step in self._rise:
                step["same_rise"] = True
            self._rise = []
        elif mine:
            self._rise.append(alert)
        else:
            self._record_lost_alerts([alert])

    def _update_peaks(self, without_rule: ScoredBatch, with_rule: ScoredBatch) -> None:
        """Update the highest levels of both runs in the windows of confirmed attacks."""
        agents, times = without_rule.columns.names[:, columns.AGENT], without_rule.columns.time_ms
        for label, peaks in zip(self._labels, self._peaks, strict=True):
            rows = (agents == np.uint64(label.agent.key)) & (times >= label.from_ms) & (times <= label.until_ms)
            for run, scored in enumerate((without_rule, with_rule)):
                peaks[run] = max(int(peaks[run]), int(scored.levels[rows, 1].max(initial=0)))

    def _end_rise(self) -> None:
        """Count the alerts of a rise that led to nothing."""
        self._record_lost_alerts(self._rise)
        self._rise = []

    def _record_lost_alerts(self, alerts: Iterable[dict[str, Any]]) -> None:
        """Count removed alerts at high or critical as lost detections."""
        for alert in alerts:
            if RiskLevel[alert["level"].upper()] >= RiskLevel.HIGH:
                self._record_lost({**alert, "why": "level"})

    def _record_lost(self, alert: dict[str, Any]) -> None:
        self.lost_detection_count += 1
        if len(self.lost_detections) < MAX_LISTED:
            self.lost_detections.append(alert)

    def finish(self) -> None:
        """After all records, find confirmed attacks that the rule hides or lowers."""
        self._end_rise()
        for label, (before, after) in zip(self._labels, self._peaks.tolist(), strict=True):
            if before >= RiskLevel.MEDIUM and after < before:
                alert = _alert_record(label.agent, label.from_ms, label.event_id, before, after)
                self._record_lost({**alert, "why": "confirmed", "feedback_id": label.feedback_id})


def _alert_record(agent: AgentName, at_ms: int, event_id: str, level: int, level_with_rule: int) -> dict[str, Any]:
    return {
        "agent_id": agent.agent_id,
        "tenant": agent.tenant,
        "issuer": agent.issuer,
        "time": format_rfc3339(at_ms),
        "event_id": event_id,
        "level": RiskLevel(level).label,
        "level_with_rule": RiskLevel(level_with_rule).label,
        "reasons": [],
        "marked": False,
        "same_rise": False,
    }


def preview_result(job: PreviewJob, parts: Sequence[RuleComparison], source: str, unseen: str = "") -> dict[str, Any]:
    first = min((part.first_ms for part in parts if part.first_ms), default=job.until_ms)
    removed = sorted((alert for part in parts for alert in part.removed_alerts), key=lambda alert: str(alert["time"]))
    lost = sorted(
        (alert for part in parts for alert in part.lost_detections),
        key=lambda alert: (alert["why"], str(alert["time"])),
    )
    events = sum(part.events for part in parts)
    odd = sum((part.still_odd for part in parts), Counter[str]())
    return {
        "window": {
            "from": format_rfc3339(first),
            "to": format_rfc3339(job.until_ms),
            "events": events,
            "source": source,
        },
        "events_matched": sum(part.matched for part in parts),
        "alerts_before": sum(part.alerts[0] for part in parts),
        "alerts_after": sum(part.alerts[1] for part in parts),
        "alerts_removed": removed[:MAX_LISTED],
        "alerts_removed_count": sum(part.removed_alert_count for part in parts),
        "detections_lost": lost[:MAX_LISTED],
        "detections_lost_count": sum(part.lost_detection_count for part in parts),
        "agents_affected": len(set().union(*(part.agents for part in parts))),
        "still_odd": [{"feature": name, "events": count} for name, count in odd.most_common(_MAX_ANOMALOUS_FEATURES)],
        "unseen": unseen,
    }


def _make_processor(context: PreviewContext) -> Processor:
    engine = Engine(context.model, context.settings, None, identities=context.identities)
    encoder = ColumnEncoder(context.model.salt, context.domains, context.identities)
    return Processor(engine, encoder, DuplicateWindow(), LivePolicy(PolicyBook()))


def _is_alert(decision: Decision) -> bool:
    return decision.level > decision.previous_level and decision.level >= RiskLevel.MEDIUM
