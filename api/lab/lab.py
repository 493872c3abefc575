"""`Lab`: one object for what an analyst asks. Each method is a question; `columns` says what the answers hold."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...models.detector import DetectorSettings
from ...scoring.backtest import BacktestPlan, default_budgets
from ...scoring.policy import PolicyBook
from .. import clock
from ..serve.wiring import policy_book
from . import backtesting, learned, replaying, told
from .asked_events import EventQueries
from .backtesting import BacktestFrames, PolicyChoice
from .history import parse_time_ms
from .learned import LabModel
from .opening import LabError

_DAY_MS = 86_400_000


class LabSession(EventQueries):
    """What a service knows, as frames. Use `open_session`.

    Args:
        settings: of the service.
        tenants: nothing of others is shown; None = all.
    """

    def train_model(
        self,
        events: Any,
        *,
        version: str | None = None,
        seed: int = 0,
        trees: int = 100,
        directory: str | Path | None = None,
    ) -> LabModel:
        """Learn a model from a frame of events, taken as normal. It goes to *directory*, or away with the lab."""
        name = version or clock.utc_now().strftime("lab-%Y-%m-%d.%H%M%S")
        path = self.work_folder / f"model-{len(self._models)}-{name}" if directory is None else Path(directory)
        salt = secrets.token_bytes(16)
        with suppress(LabError):
            salt = self.model().trained.salt
        made = learned.train_lab_model(
            replaying.raw_events(events),
            path,
            salt,
            name,
            DetectorSettings(seed=seed, trees=trees),
            self.engine_settings,
            self.settings.domains(),
            self._agent_types(),
            clock.now_ms(),
        )
        self._models[path] = made
        return made

    def reliability(self, scores: Any) -> Any:
        """Promised against observed: how often events of a frame `scores` had a p-value of at most so much."""
        return learned.reliability_frame(scores)

    def labels(self, path: str | Path | None = None) -> Any:
        """Labels of events, of a file as `trustwatch simulate --labels` writes it; default: `labels.jsonl` here."""
        return told.labels_frame(self._label_file(path, wanted=True))

    def run_backtest(
        self,
        events: Any = None,
        *,
        models: Sequence[LabModel] = (),
        policies: Sequence[PolicyChoice] = (None,),
        since: Any = None,
        until: Any = None,
        labels: str | Path | None = None,
        budget: float = 1.0,
        learn: bool = True,
        jobs: int = 1,
    ) -> BacktestFrames:
        """History through the live path: alerts, requests, revocations; two models or two policies side by side.

        *budget* is a multiple of the one set. Labels default to `labels.jsonl` of the data directory.
        """
        plan = self._backtest_plan(events, models, policies, since, until, labels, budget, learn, jobs)
        return backtesting.run_plan(plan)

    def budgets(
        self,
        events: Any = None,
        *,
        factors: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0, 20.0),
        model: LabModel | None = None,
        since: Any = None,
        until: Any = None,
        labels: str | Path | None = None,
        jobs: int = 1,
    ) -> Any:
        """The same history at several alert budgets (multiples of the one set), each run in full."""
        models = () if model is None else (model,)
        return backtesting.budgets_frame(
            self._backtest_plan(events, models, (None,), since, until, labels, 1.0, True, jobs), factors
        )

    def what_if(
        self,
        policies: Mapping[str, PolicyChoice],
        *,
        events: Any = None,
        factors: Sequence[float] = (1.0,),
        model: LabModel | None = None,
        since: Any = None,
        until: Any = None,
        jobs: int = 1,
    ) -> tuple[Any, Any]:
        """What policies (by name: None for that of the settings, a file, or what one would hold) would have done.

        Gives the frame `what_if`, and the frame `backtest_revoked` with columns `policy` and `factor` before it.
        """
        plan = self._backtest_plan(
            events, () if model is None else (model,), (None,), since, until, None, 1.0, True, jobs
        )
        books = {name: self._policy_book(policy, name) for name, policy in policies.items()}
        return backtesting.what_if_frames(plan, books, factors)

    def labelled_revocations(self, revoked: Any, labels: str | Path | None = None) -> Any:
        """Which agents of a frame `backtest_revoked` the labels call bad, and how long after their first bad event."""
        path = self._label_file(labels, wanted=False)
        if path is None:
            return told.labelled_revocations_frame(revoked, None, {})
        found = told.labels_frame(path)
        bad = set(found[found["bad_event"]]["id"])
        since = parse_time_ms(revoked["at"].min())
        wanted = self._event_filter(None, None, None if since is None else told.timestamp_of(since - _DAY_MS), None)
        times = {one.event.id: one.time_ms for one in self._matching_events(wanted) if one.event.id in bad}
        return told.labelled_revocations_frame(revoked, found, times)

    def _policy_book(self, policy: PolicyChoice, name: str) -> PolicyBook:
        return backtesting.load_policy_book(policy, policy_book(self.settings), self.work_folder, name)

    def _label_file(self, path: str | Path | None, wanted: bool) -> Path | None:
        """A label file; by default the one in the data directory, if it is there."""
        chosen = Path(path) if path is not None else self.settings.data_dir / "labels.jsonl"
        if chosen.is_file():
            return chosen
        if wanted or path is not None:
            raise LabError(f"{chosen}: no labels; they are JSON lines as `trustwatch simulate --labels` writes")
        return None

    def _backtest_plan(
        self,
        events: Any,
        models: Sequence[LabModel],
        policies: Sequence[PolicyChoice],
        since: Any,
        until: Any,
        labels: str | Path | None,
        budget: float,
        learn: bool,
        jobs: int,
    ) -> BacktestPlan:
        if len(models) > 2 or not 1 <= len(policies) <= 2:
            raise LabError("a back-test compares two models or two policies at most; `lab.what_if` takes any number")
        chosen = list(models) or [self.model()]
        wanted = self._event_filter(None, None, since, until)
        lines = self._events_to_replay(chosen[0], wanted) if events is None else replaying.raw_events(events)
        path = self.work_folder / f"events-{len(list(self.work_folder.glob('events-*')))}.jsonl"
        with path.open("wb") as file:
            file.writelines(line.replace(b"\n", b" ") + b"\n" for line in lines)
        settings = self.engine_settings._replace(learn=learn)
        settings = settings._replace(budget=backtesting.scale_budget(settings.budget, budget))
        return BacktestPlan(
            [path],
            [one.directory for one in chosen],
            settings,
            [self._policy_book(one, f"policy {one}") for one in policies],
            default_budgets(settings.budget),
            self.settings.domains(),
            told.datetime_of(since),
            told.datetime_of(until),
            self._label_file(labels, wanted=False),
            (),
            jobs,
        )
