"""Models and replays as pandas frames: scores of events, and back-tests under other models, budgets and policies."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import msgspec
import numpy as np
import pandas as pd
from scipy.stats import binomtest

from trustwatch.api import clock
from trustwatch.api.cli.history_input import WindowedSource
from trustwatch.api.cli.topic_input import TimeWindow
from trustwatch.api.composition import policy_book
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.features.feature_declaration import UNIT_WORDS
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.hashing import NameHasher
from trustwatch.models.detector import DetectorSettings
from trustwatch.scoring.backtest import counts
from trustwatch.scoring.backtest.plan import BacktestPlan, EventLabel, history_end, read_labels
from trustwatch.scoring.backtest.result import BacktestSide, build_result
from trustwatch.scoring.engine import risk
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.learning.training import KnownPeerGroups, train_and_save
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.policy.book import PolicyBook, read_policy_book

from .frames import ROW_LIMIT, as_window, find_decision, open_history, read, struct_in, typed
from .session import LabError, LabModel, LabSession, LabWarning

Policy = str | Path | Mapping[str, Any] | None
"""A policy file, or its content; None = the policy of the settings."""


def contributions(session: LabSession, decision: str | pd.Series, model: LabModel) -> pd.DataFrame:
    """Return the features of a decision's event: value, evidence in decades, and share of the total evidence."""
    stored = find_decision(session, decision)
    if not stored.feature_vector:
        raise LabError(f"decision {stored.decision_id} has no feature vector: no event made it, but {stored.cause}")
    if model.trained.version != stored.model_version:
        warn(f"decided under model {stored.model_version}, shown as {model.trained.version} sees it", LabWarning, 2)
    vector = np.array([[float(stored.feature_vector.get(name, 0.0)) for name in FEATURE_NAMES]])
    frame = _feature_columns().assign(
        value=vector[0],
        evidence=model.detector.evidence(vector).feature_evidence[0],
        share=model.detector.explain(vector)[0],
    )
    return frame.sort_values("share", ascending=False, ignore_index=True)


def _feature_columns() -> pd.DataFrame:
    rows = [(feature.name, feature.family, UNIT_WORDS[feature.unit], feature.meaning) for feature in FEATURES]
    return pd.DataFrame(rows, columns=["feature", "family", "unit", "meaning"])


def features(model: LabModel) -> pd.DataFrame:
    """Return each feature's weight, and median and 90th percentile of its evidence in the model's history (decades)."""
    usual = model.detector.usual
    return _feature_columns().assign(importance=model.detector.parts.importance, usual=usual.median, upper=usual.upper)


def calibration(session: LabSession, model: LabModel) -> pd.DataFrame:
    """Return the p-values of anomaly scores, for known agents and newcomers, in each peer group with a curve."""
    hasher, grid = NameHasher(model.trained.salt), np.linspace(0.3, 1.0, 71)
    types = read(session, "agents")[["tenant", "agent_type"]].drop_duplicates().itertuples(index=False)
    names = {int(hasher(f"{tenant}\x1f{kind}")): f"{tenant} {kind}" for tenant, kind in types} | {0: "fleet"}
    curves = [
        pd.DataFrame(
            {"anomaly_score": grid, "p_value": curve.p_values(grid, np.full(len(grid), key, np.uint64))}
        ).assign(agents=agents, group=names.get(key, f"{key:016x}"))
        for agents, curve in (("known", model.detector.familiar), ("newcomers", model.detector.calibration))
        for key in np.intersect1d(curve.groups, model.trained.groups).tolist()
    ]
    return pd.concat(curves, ignore_index=True)


def train_model(
    session: LabSession,
    events: pd.DataFrame,
    *,
    version: str | None = None,
    seed: int = 0,
    trees: int = 100,
    directory: str | Path | None = None,
) -> LabModel:
    """Train a model on a frame of normal events, in *directory* or for the session. Raises NotEnoughHistory."""
    if events.empty:
        raise LabError("no events to learn from: widen since and until")
    salt = secrets.token_bytes(16)
    with suppress(LabError):  # hashes of names stay those of the service
        salt = session.model().trained.salt
    path = Path(directory or Path(session.work_folder.name) / secrets.token_hex(4))
    columns = ColumnEncoder(salt, session.settings.domains()).encode(
        [decode_history_event(raw)[0] for raw in events["raw"]]
    )
    name = version or clock.utc_now().strftime("lab-%Y-%m-%d.%H%M%S")
    detector = DetectorSettings(seed=seed, trees=trees)
    settled = KnownPeerGroups().settle(columns)
    trained = train_and_save(path, settled, salt, name, detector, session.engine_settings, clock.now_ms())
    return LabModel(path, trained.model, trained.budget_report)


def budget_report(model: LabModel) -> pd.DataFrame:
    """Return alerts promised and observed per 1,000 agent-days on held-out history, of a model trained here."""
    if model.budget_report is None:
        raise LabError("a promise is measured while a model is trained: train one (`replays.train_model`)")
    frame = pd.DataFrame(model.budget_report.levels).rename(columns={"enough_data": "enough_history"})
    return typed(frame.assign(agent_days=model.budget_report.agent_days))


def scores(
    session: LabSession,
    model: LabModel,
    *,
    since: Any = None,
    until: Any = None,
    source: str | Path | None = None,
    limit: int = ROW_LIMIT,
) -> pd.DataFrame:
    """Replay events through the live path: score, evidence (natural log), and the risk of the agent after each.

    All since the end of the model's history are replayed, so that agents' state is as it was live.
    """
    wanted, learned = as_window(since, until), history_end(model.trained.window_ms[1])
    if wanted.after is not None and wanted.after < learned:
        warn(f"{model!r} has learned from events that are scored here", LabWarning, 2)
    window = wanted._replace(after=min(wanted.after or learned, learned))
    replay = HistoryReplay(model.trained, session.engine_settings, session.settings.domains())
    kept: deque[tuple[Any, ...]] = deque(maxlen=limit + 1)
    with open_history(session, window, source) as paths:
        for applied in replay.applied_batches(WindowedSource(FileSource(paths), window), lambda *_: None):
            for scored, _ in applied.scored:
                kept.extend(
                    row for row in _scored_rows(session, scored) if wanted.after is None or row[0] >= wanted.after
                )
    if len(kept) > limit:
        warn(f"more than {limit:,} events were scored, the last are here: narrow or raise limit", LabWarning, 2)
        kept.popleft()
    frame = typed(pd.DataFrame(kept, columns=_SCORE_COLUMNS))
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True))


_SCORE_COLUMNS = (
    *("time", "id", "tenant", "issuer", "agent_id", "agent_type", "action"),
    *("anomaly_score", "p_value", "evidence", "risk_score", "confidence", "level_before", "level"),
)


def _scored_rows(session: LabSession, scored: ScoredBatch) -> Iterator[tuple[Any, ...]]:
    numbers = np.column_stack(
        [scored.anomaly, scored.p_values, scored.risk[:, [risk.GAIN, risk.SCORE, risk.CONFIDENCE]]]
    )
    for event, row, levels in zip(scored.columns.events, numbers.tolist(), scored.levels.tolist(), strict=True):
        if session.tenants is None or (event.tenant or "") in session.tenants:
            who = (event.tenant or "", event.agent.issuer or "", event.agent.id, event.agent.type or "")
            yield event.time, event.id, *who, event.action, *row, *levels


def reliability(scores: pd.DataFrame) -> pd.DataFrame:
    """Compare promised and observed rates: the share of events of a frame `scores` up to each p-value.

    `low` and `high` bound the 95 % interval of the share, if events were independent.
    """
    p_values, rows = np.sort(scores["p_value"]), []
    for promised in np.logspace(-3, 0, 25):
        events = int(np.searchsorted(p_values, promised * (1 + 1e-12), side="right"))
        chance = binomtest(events, max(len(p_values), 1)).proportion_ci(method="wilson")
        rows.append((promised, events / max(len(p_values), 1), events, chance.low, chance.high))
    return pd.DataFrame(rows, columns=["promised", "observed", "events", "low", "high"])


class Run(NamedTuple):
    """Variant of a back-test: the model, the multiple of the alert budget, the policy."""

    model: str
    factor: float
    policy: str


def run_backtests(
    session: LabSession,
    *,
    models: Mapping[str, LabModel] | None = None,
    factors: Sequence[float] = (1.0,),
    policies: Mapping[str, Policy] = {"as set": None},
    since: Any = None,
    until: Any = None,
    source: str | Path | None = None,
    labels: str | Path | None = None,
) -> dict[Run, BacktestSide]:
    """Replay history through the live path for each model, budget and policy: alerts, requests, revocations.

    *labels* are JSON lines as `trustwatch simulate --labels` writes them; by default `labels.jsonl` of the data
    directory, if it exists. `rows` makes frames of the outcome.
    """
    window, models = as_window(since, until), models or {"active": session.model()}
    label_path = Path(labels) if labels is not None else session.settings.data_dir / "labels.jsonl"
    known = read_labels(label_path) if labels is not None or label_path.is_file() else None
    books = {name: _policy_book(session, policy, name) for name, policy in policies.items()}
    outcomes = {}
    with open_history(session, TimeWindow(None, window.before), source) as paths:
        for name, model in models.items():
            first = window.after or history_end(model.trained.window_ms[1])
            plan = BacktestPlan(paths, [model.directory], domains=session.settings.domains(), since=first)
            plan = plan._replace(before=window.before, labels=None if known is None else label_path)
            for factor in factors:
                budget = session.engine_settings.risk.budget.scaled(factor)
                budgeted = plan._replace(settings=session.engine_settings.with_budget(budget))
                for policy, book in books.items():
                    tried = budgeted._replace(books=[book])
                    outcomes[Run(name, factor, policy)] = build_result(tried, *counts.run_backtest(tried), known).sides[
                        0
                    ]
    return outcomes


def _policy_book(session: LabSession, policy: Policy, name: str) -> PolicyBook:
    """Return the policy of a file, of a file's content, or of the settings. Raises ConfigError if it is invalid."""
    if policy is None:
        return policy_book(session.settings)
    if isinstance(policy, Mapping):
        path = Path(session.work_folder.name) / "policy.yaml"
        path.write_text(json.dumps({"version": name, **policy}))  # JSON is YAML
        policy = path
    return read_policy_book(Path(policy))


def rows(outcomes: Mapping[Run, BacktestSide], member: str) -> pd.DataFrame:
    """Return a member of back-test results (`alerts`, `policy.revoked`, `evaluation.levels`, …) as a frame, with its
    `Run`.

    Members of members are joined by `_`: `outcomes_denied`. Without labels the frame is empty.
    """
    parts = [pd.DataFrame(columns=[*Run._fields, *_columns_of(member)])]
    for run, side in outcomes.items():
        found = reduce(lambda part, name: (part or {}).get(name), member.split("."), msgspec.to_builtins(side))
        listed = [] if found is None else found if isinstance(found, list) else [found]
        if listed:
            is_points = not isinstance(listed[0], dict)
            flat = pd.DataFrame(listed, columns=["x", "y"]) if is_points else pd.json_normalize(listed, sep="_")
            flat[list(Run._fields)] = list(run)
            parts.append(flat)
    frame = pd.concat(parts[1:] or parts, ignore_index=True)
    return typed(frame[[*Run._fields, *(name for name in frame if name not in Run._fields)]])


def _columns_of(member: str) -> list[str]:
    """Return the declared members of a member of back-test results. Points have `x` and `y`."""
    kind: Any = BacktestSide
    for name in member.split("."):
        kind = struct_in(next(field.type for field in msgspec.structs.fields(kind) if field.name == name))
    return ["x", "y"] if kind is None else [field.encode_name for field in msgspec.structs.fields(kind)]


def labels(session: LabSession, path: str | Path | None = None) -> pd.DataFrame:
    """Return the labels in a file of `trustwatch simulate --labels`. Default: `labels.jsonl` of the data directory.

    Without that file the frame is empty. Raises LabError if *path* is not a file.
    """
    file = Path(path or session.settings.data_dir / "labels.jsonl")
    if path is not None and not file.is_file():
        raise LabError(f"{file}: no labels; they are JSON lines as `trustwatch simulate --labels` writes")
    found = read_labels(file).labels if file.is_file() else ()
    columns = [field.encode_name for field in msgspec.structs.fields(EventLabel)]
    frame = pd.DataFrame(map(msgspec.to_builtins, found), columns=columns)
    return frame if session.tenants is None else frame[frame["tenant"].isin(session.tenants)]


def first_bad_events(events: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return the first event of each agent that is labeled bad: `tenant`, `agent_id`, `first_bad`."""
    bad = events[events["id"].isin(labels.loc[labels["event_label"] != 0, "id"])]
    return bad.groupby(["tenant", "agent_id"])["time"].min().rename("first_bad").reset_index()
