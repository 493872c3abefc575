"""The first model of a service that learns: when there is enough history for it, and which version is activated."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import ModelError, Unavailable
from trustwatch.ingest.log.log_database import lock_log
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.model_directory import copy_model, is_model, read_manifest
from trustwatch.models.model_persistence import LEARNING_VERSION, ModelRegistry, RegisteredModel, save_learning_model
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.records.agents import HistoryExtent
from trustwatch.scoring.records.models import ModelSwitch
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..composition import open_model_registry, open_service_store
from ..settings.root import Settings

LEARN_EVENTS, LEARN_DAYS = 2_000, 3
"""History that the first model needs: with less, agents have shown too few days to be distinguished."""


class LearningProgress(NamedTuple):
    """History that there is, and that is needed."""

    events: int  # that counted for agents, ever
    days: float  # between the first and the last of them, by their own time, without a twentieth at each end
    over_budget: str = ""  # version that was trained and breaks the alert budget on its own history; "" = none
    held: bool = False  # a person went back to learning, so nothing is trained until a person orders it

    @property
    def is_enough(self) -> bool:
        """True if a first model can be trained."""
        return self.events >= LEARN_EVENTS and self.days >= LEARN_DAYS

    def describe(self) -> str:
        """Two sentences for people."""
        if self.held:
            return "Somebody went back to learning. Promote a version, or train another one, to end that."
        if self.over_budget:
            return (
                f"The service learns: it trained {self.over_budget}, which breaks the alert budget on its own history. "
                "It trains again with more history, or a person promotes that one."
            )
        has = f"{self.events:,} of {LEARN_EVENTS:,} events, and {self.days:.1f} of {LEARN_DAYS} days"
        then = (
            "The first model is trained now, or next" if self.is_enough else "Until it has both, every agent is unknown"
        )
        return f"The service learns: it has {has}. {then}."


def learning_progress(extent: HistoryExtent, over_budget: str = "", *, held: bool = False) -> LearningProgress:
    """Progress of a store with this *extent*; the rest as in `LearningProgress`."""
    return LearningProgress(extent.events, max(extent.last_ms - extent.first_ms, 0) / DAY_MS, over_budget, held)


TRAINING_REQUEST_KEY = "lifecycle.train"
"""Written by who orders: the newest request as JSON (`id`, `by`, `why`, `at_ms`)."""
LAST_TRAINING_KEY = "lifecycle.trained_ms"
"""Written by the model worker: when a training was begun last, UTC milliseconds."""
TRAINING_STATE_KEY = "lifecycle.training"
"""Written by the model worker: `TrainingState` as JSON."""


class TrainingState(msgspec.Struct, frozen=True):
    """The running training, or the last one.

    A model worker that finds it unfinished continues it: the previous worker died.

    `request` is the last accepted request, verbatim; a different text is a new request. It is stored as `wish`, its
    name in existing stores.
    """

    request: str = msgspec.field(default="", name="wish")
    version: str = ""
    by: str = ""
    why: str = ""
    at_ms: int = 0
    tries: int = 0  # begun so often without a word of how it ended
    ended: bool = True


LOOK_EVERY_S = 10.0
"""Between two looks at how much history there is."""

QUIET_LOOKS, MOST_GROWTH = 3, 1.05
"""A history is whole once it grew by so little over so many looks: who sends an old one sends much at a time."""

LOG_EVERY_S = 600.0
TRY_AGAIN_GROWTH = 1.25
"""After a first training that activated no model, another one needs this many times the events."""
TRY_AGAIN_MS = HOUR_MS
"""And so much time after it."""
TRIED_EVENTS_KEY = "first_training_events"
"""Events that there were at the last try."""
MOST_REQUESTS = 5
"""Requests for the promotion of one version: if it is not active after that, it cannot be activated."""

_log = structlog.get_logger(__name__)


def is_learning(installed: RegisteredModel, store: SqlStore) -> bool:
    """Return whether the untrained model is active. Raises Unavailable."""
    newest = next(iter(store.models.list_switches(1)), None)
    return installed.manifest.learns and (newest is None or newest.version == installed.version)


def is_judged_by(trained: Mapping[str, Any], budget: AlertBudget) -> bool:
    """Return whether a training was judged by the active alert budget: thresholds and alerts follow from that."""
    judged = {row["level"]: row["budget"] for row in (trained.get("promise") or {}).get("levels", ())}
    return not judged or judged == budget.by_level()


def measure_progress(store: SqlStore, budget: AlertBudget) -> LearningProgress:
    """Measure how much history there is, from what the store knows of agents. Raises Unavailable."""
    waiting = [
        challenger.version
        for challenger in store.models.page("challenger").items
        if challenger.trained.get("over_budget") and is_judged_by(challenger.trained, budget)
    ]
    return learning_progress(store.agents.history_extent(), waiting[0] if waiting else "", held=had_a_model(store))


def had_a_model(store: SqlStore) -> bool:
    """True if another model was active before: a person went back to the untrained one."""
    return len({switch.version for switch in store.models.list_switches()}) > 1


@dataclass(eq=False, repr=False)
class FirstTraining:
    """Decides when to train the first model, and which version to activate."""

    store: SqlStore
    registry: ModelRegistry
    now_ms: Callable[[], int] = clock.now_ms
    monotonic: Callable[[], float] = clock.monotonic
    _: KW_ONLY
    budget: AlertBudget = field(default_factory=AlertBudget)

    def __post_init__(self) -> None:
        self._tried_for_budget = False
        self._looked_at = self._logged_at = float("-inf")
        self._seen: deque[int] = deque(maxlen=QUIET_LOOKS + 1)
        self.requests: Counter[str] = Counter()
        """How often the promotion of each version was requested."""

    def is_due(self) -> bool:
        """Check periodically whether there is enough history, and whether a bulk import has finished.

        Never true after a model was active: a person who went back to learning has a reason, and orders the next
        training.
        """
        if self.monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = self.monotonic()
        extent, now_ms = self.store.agents.history_extent(), self.now_ms()
        progress = learning_progress(extent)
        if self.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = self.monotonic()
            _log.info("learning", **progress._asdict(), enough=progress.is_enough)
        self._seen.append(extent.events)
        settled = len(self._seen) > QUIET_LOOKS and extent.events <= MOST_GROWTH * self._seen[0]
        if not (progress.is_enough and settled and self._may_try(extent.events, now_ms)):
            return False
        if had_a_model(self.store) or self.ready_version() is not None:
            return False
        self.store.metadata.put(TRIED_EVENTS_KEY, str(extent.events))
        return True

    def _may_try(self, events: int, now_ms: int) -> bool:
        newest = next(iter(self.store.models.page("challenger").items), None)
        if not self._tried_for_budget and newest is not None and not is_judged_by(newest.trained, self.budget):
            # The budget was changed since, so the verdict is void. Once per start, as the budget changes only then:
            # a failing training is not repeated in a loop.
            self._tried_for_budget = True
            return True
        last_ms = int(self.store.metadata.get(LAST_TRAINING_KEY) or 0)
        tried = int(self.store.metadata.get(TRIED_EVENTS_KEY) or 0)
        return not last_ms or (events >= TRY_AGAIN_GROWTH * tried and now_ms >= last_ms + TRY_AGAIN_MS)

    def ready_version(self) -> str | None:
        """Return the version that was trained here and keeps the alert budget on its own history; else people decide.

        A deleted version, or one that was requested too often, does not block the next.
        """
        if had_a_model(self.store):
            return None
        for challenger in self.store.models.page("challenger").items:
            kept = challenger.trained.get("over_budget") == []  # said by our own training alone
            if not (kept and is_judged_by(challenger.trained, self.budget)):
                continue
            if self.requests[challenger.version] >= MOST_REQUESTS:
                continue
            with suppress(ModelError):  # it was deleted
                self.registry.find_directory(challenger.version, challenger.digest)
                return challenger.version
        return None


LEARNING_DIGEST_KEY: Final = "learning.digest"
"""Key of the store's meta table: digest of the model that all machines began with. Written by the first."""
LEARNING_MADE_KEY: Final = "learning.made_ms"
"""Likewise: when that model was made."""
BEGIN_AGAIN_MS = 600_000
"""Age from which that model is created again if it is lost and has judged no agent."""
JOB: Final = "learning"
LOCK_TRIES, LOCK_EVERY_S = 1_200, 0.5
"""Another process has the lock for as long as it takes to make a small model. On a new installation it compiles for
that: minutes on a busy machine."""


def begin_learning(settings: Settings, ending: Callable[[], bool] = lambda: False) -> None:
    """Put the untrained model into `model_dir` if it has no model, and nothing was judged by another yet.

    With brokers all machines begin with the same one, which the first puts into the versions that they share: each with
    a salt of its own would know agents under other keys, and a version that one trains has to reach the others.

    Raises:
        ModelError: a model was there before, whose states of agents a new one could not read; or `model_dir` looks like
            a typing error; or machines do not share versions; or none can be written.
        LogInUse: another service runs on `data_dir`.
        Unavailable: the database does not answer.
    """
    folder = settings.model_dir
    if is_model(folder):
        if settings.distributed:
            # A machine that shares only its `model_dir` would not find the first version that is trained.
            manifest, digest = read_manifest(folder)
            if manifest.learns:
                _shared_model(open_model_registry(settings), digest)
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        return  # loading it reports what is wrong
    try:
        _require_meant(folder, settings.data_dir)
        if settings.distributed:
            begun = _begin_with_others(settings, ending)
        else:
            log = settings.data_dir / "log"
            log.mkdir(parents=True, exist_ok=True)
            with lock_log(log):
                begun = not is_model(folder)  # else a service that began at the same time made one
                if begun:
                    with closing(open_service_store(settings)) as store:
                        _refuse_lost_model(settings, store.models.list_switches(1))
                    save_learning_model(folder, clock.now_ms())
    except OSError as error:
        raise ModelError(
            f"{folder} holds no model, and none can be put there ({error.strerror}): train one, or name a "
            "`model_dir` in a folder that the service may write to"
        ) from None
    if begun:
        _log.warning("no model in model_dir: the service learns, and knows no agent until then", model_dir=str(folder))


def _require_meant(folder: Path, data_dir: Path) -> None:
    """Refuse if a typing error is likelier: the parent folder does not exist, or a model is next to it.

    An empty folder counts as intended for a model.
    """
    parent = folder.parent
    if folder.is_dir() or (not parent.exists() and data_dir.is_relative_to(parent)):
        return
    if not parent.is_dir():
        found = f"{parent} is not a folder"
    elif beside := sorted(path.name for path in parent.iterdir() if not path.name.startswith(".") and is_model(path)):
        found = f"there is one in {parent / beside[0]}"
    else:
        return
    raise ModelError(
        f"{folder} holds no model, and {found}: is `model_dir` right? If the service is to begin without a model, and "
        f"to learn, make that folder: mkdir -p {folder}"
    )


def _begin_with_others(settings: Settings, ending: Callable[[], bool]) -> bool:
    registry = open_model_registry(settings)
    with closing(open_service_store(settings)) as store:
        lock = None
        for tried in range(LOCK_TRIES):
            lock = store.database.acquire_leader_lock(JOB)
            if lock is not None or ending():
                break
            if not tried:
                _log.info("another process makes the first model: waiting for it")
            clock.sleep(LOCK_EVERY_S)
        if lock is None:
            raise Unavailable(
                "another machine puts the first model into `model_dir`, and does not end: start again later"
            )
        try:
            if is_model(settings.model_dir):
                return False  # another machine shares the folder, and was quicker
            digest = store.metadata.get(LEARNING_DIGEST_KEY) or ""
            if not digest or _is_lost_unused(registry, store):
                digest = _make_shared_model(settings, store, registry)
            _refuse_lost_model(settings, [one for one in store.models.list_switches(1) if one.installed != digest])
            copy_model(_shared_model(registry, digest), settings.model_dir)
        finally:
            lock.release()
    return True


def _is_lost_unused(registry: ModelRegistry, store: SqlStore) -> bool:
    """True if the model that all machines began with is missing here, has judged no agent and has no successor.

    This happens if a volume is not mounted. Nothing is lost with it, so the deployment begins again, but only after a
    while: a machine that starts next to the first and does not share its versions finds none either.
    """
    made_ms = int(store.metadata.get(LEARNING_MADE_KEY) or 0)
    if is_model(registry.directory_of(LEARNING_VERSION)) or clock.now_ms() - made_ms < BEGIN_AGAIN_MS:
        return False
    return not store.models.list_switches(1) and not _other_versions(store)


def _other_versions(store: SqlStore) -> list[str]:
    """Versions that are known but the one that learns; two at the most."""
    return [model.version for model in store.models.page(limit=2).items if model.version != LEARNING_VERSION]


def _make_shared_model(settings: Settings, store: SqlStore, registry: ModelRegistry) -> str:
    """Make the model that all machines begin with; returns its digest."""
    _refuse_lost_model(settings, store.models.list_switches(1))
    if others := _other_versions(store):
        raise ModelError(
            f"{settings.model_dir} holds no model, and another machine has {others[0]!r}: all machines need "
            "the same one, so copy its `model_dir` to this one"
        )
    directory = registry.directory_of(LEARNING_VERSION)
    save_learning_model(directory, clock.now_ms())
    digest = read_manifest(directory)[1]
    store.metadata.put(LEARNING_MADE_KEY, str(clock.now_ms()))
    store.metadata.put(LEARNING_DIGEST_KEY, digest)
    return digest


def _shared_model(registry: ModelRegistry, digest: str) -> Path:
    """Directory of the model that all machines began with. Raises ModelError if this machine does not share it."""
    directory = registry.directory_of(LEARNING_VERSION)
    if not is_model(directory) or read_manifest(directory)[1] != digest:
        raise ModelError(
            f"{directory} is not the model that this deployment began with. It learns: the first model that it trains "
            "reaches a machine by `data_dir`/models alone. Let all machines share that folder; or train a model with "
            "`trustwatch train`, and copy it to `model_dir` of each"
        )
    return directory


def _refuse_lost_model(settings: Settings, before: list[ModelSwitch]) -> None:
    if before:
        raise ModelError(
            f"{settings.model_dir} holds no model, but agents were judged by {before[0].version!r} before: put it back "
            f"(it may be below {settings.data_dir / 'models'}), or restore a back-up"
        )
