"""Convert models to named arrays and back. The arrays are checked, so a detector that loads can score."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from trustwatch.ingest.errors import ConfigError, ModelError
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURE_NAMES, feature_table_hash
from trustwatch.ingest.features.layout import Baseline

from .array_rules import GROUP as DETECTOR_GROUP
from .array_rules import (
    ArrayForm,
    check_detector_arrays,
    check_detector_forms,
    check_history_arrays,
    check_history_forms,
)
from .betting import AlarmTail
from .calibration import Calibration, PeerScales
from .call_challenges import CallChallenges
from .concerns import CONCERNS, ByConcern, ConcernModel, FeatureRoles, T
from .detector import DetectorSettings, ForestDetector, UsualEvidence
from .detector_training import fit_detector
from .evidence_combination import EvidenceCombination, TailTables
from .forest_evaluator import ForestArrays
from .model_directory import (
    LoadedModel,
    ModelManifest,
    TrainingWindow,
    copy_model,
    is_model,
    load_model,
    read_manifest,
    save_model,
)
from .model_training import baseline_digest
from .trained_model import AgentSeeds, TrainedModel

_Rate = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


def detector_state(detector: ForestDetector) -> dict[str, NDArray[Any]]:
    """Return the arrays to save. With the settings and feature names of the manifest they make the detector."""
    parts, calibration, concerns = detector.parts, detector.calibration, detector.by_concern
    return {
        "forest_features": parts.forest.features,
        "forest_thresholds": parts.forest.thresholds,
        "forest_leaves": parts.forest.leaves,
        "forest_expected": parts.forest.expected,
        "forest_normaliser": np.array(parts.forest.normaliser),
        **_named("tail", parts.tails),
        **_named("score_tail", parts.score_tail),
        **_named("scale", detector.scales),
        **_named("calibration", calibration),
        **_named("familiar", detector.familiar),
        **_named("asked_compromise", concerns.compromise_scales),
        **_named("asked_overreach", concerns.overreach_scales),
        **_named_by_concern("", concerns.calibrations),
        **_named_by_concern("familiar_", concerns.familiar),
        "importance": parts.importance,
        **{f"role_{name}": flags.astype(np.uint8) for name, flags in concerns.roles._asdict().items()},
        "usual_median": detector.usual.median,
        "usual_upper": detector.usual.upper,
    }


def _named(prefix: str, arrays: TailTables | PeerScales | Calibration) -> dict[str, NDArray[Any]]:
    return {f"{prefix}_{name}": array for name, array in arrays._asdict().items()}


def _named_by_concern(prefix: str, calibrations: ByConcern[Calibration]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for concern, calibration in zip(CONCERNS, calibrations, strict=True):
        arrays |= _named(prefix + concern, calibration)
    return arrays


def detector_from_model(model: LoadedModel) -> ForestDetector:
    """Build the detector of a loaded model.

    Raises:
        ModelError: an array is missing, unknown, of another type or shape, or holds indices that lead outside.
    """
    state, features = model.detector_state, len(model.manifest.feature_names)
    check_detector_arrays(state, features)
    settings = _detector_settings(model.manifest.settings)
    forest = ForestArrays(
        state["forest_features"],
        state["forest_thresholds"],
        state["forest_leaves"],
        state["forest_expected"],
        float(state["forest_normaliser"]),
        features,
    )
    return ForestDetector(
        parts=EvidenceCombination(
            TailTables(**_arrays_with_prefix(state, "tail_")),
            forest,
            TailTables(**_arrays_with_prefix(state, "score_tail_")),
            settings.forest_weight,
            settings.norm,
            state["importance"],
            state["role_added"].astype(np.bool_),
        ),
        scales=PeerScales(**_arrays_with_prefix(state, "scale_")),
        calibration=Calibration(**_arrays_with_prefix(state, "calibration_")),
        familiar=Calibration(**{name: state[f"familiar_{name}"] for name in Calibration._fields}),
        by_concern=ConcernModel(
            FeatureRoles(*(state[f"role_{name}"].astype(np.bool_) for name in FeatureRoles._fields)),
            PeerScales(**_arrays_with_prefix(state, "asked_compromise_")),
            PeerScales(**_arrays_with_prefix(state, "asked_overreach_")),
            _by_concern(Calibration(**_arrays_with_prefix(state, f"{name}_")) for name in CONCERNS),
            _by_concern(Calibration(**_arrays_with_prefix(state, f"familiar_{name}_")) for name in CONCERNS),
        ),
        usual=UsualEvidence(**_arrays_with_prefix(state, "usual_")),
        settings=settings,
        feature_names=model.manifest.feature_names,
        version=model.manifest.model_version,
    )


def _by_concern(parts: Iterable[T]) -> ByConcern[T]:
    first, second, third = parts
    return first, second, third


def _arrays_with_prefix(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _detector_settings(settings: Mapping[str, Any]) -> DetectorSettings:
    try:
        given = dict(settings["detector"])
        given["budget_shares"] = tuple(given["budget_shares"])
        return DetectorSettings(**given)
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise ModelError(f"manifest.json: settings.detector is missing or wrong ({error!r}); retrain") from None


def save_trained_model(
    path: Path, model: TrainedModel, settings: DetectorSettings, sessions: int, created_ms: int
) -> ModelManifest:
    """Write a model directory; see `model_directory.save_model` for how, and what is refused.

    Args:
        settings: how the detector was trained.
        sessions: sessions in the history, for the manifest.
        created_ms: when it was trained, UTC milliseconds.
    """
    window = TrainingWindow(*model.window_ms, int(model.group_events[0]), len(model.seeds.keys), sessions)
    manifest = ModelManifest(
        model_version=model.version,
        feature_names=FEATURE_NAMES,
        feature_table_hash=feature_table_hash(),
        window=window,
        settings={
            "detector": asdict(settings),
            **({} if model.challenges is None else {"challenges": model.challenges.document()}),
            **({"sensitive_types": list(model.sensitive_types)} if model.sensitive_types else {}),
            **({"told_target_rate": model.told_target_rate} if model.told_target_rate < 1.0 else {}),
        },
        salt_hex=model.salt.hex(),
        created_ms=created_ms,
    )
    extras: dict[str, dict[str, npt.NDArray[Any]]] = {
        "baseline": model.baseline._asdict(),
        "seeds": {
            "keys": model.seeds.keys,
            "checks": model.seeds.checks,
            "events": model.seeds.events,
            "odd": model.seeds.odd,
            "rehearsed": model.seeds.rehearsed,
            # Plain arrays, because a model contains no structured types.
            **{name: np.ascontiguousarray(model.seeds.rows[name]) for name in layout.STATE_ROW.names or ()},
        },
        "groups": {
            "ids": model.groups,
            "rates": model.group_rates,
            "events": model.group_events,
            "exponent": np.array(model.exponents),
        },
        "alarms": {name: np.array([float(getattr(tail, name)) for tail in model.alarms]) for name in AlarmTail._fields},
    }
    save_model(path, detector_state(model.detector), extras, manifest)
    return manifest


def load_trained_model(path: Path) -> TrainedModel:
    """Read and verify a model directory. Raises ModelError, which states what is wrong and what to do."""

    def check_forms(forms: Mapping[str, Mapping[str, ArrayForm]]) -> None:
        check_detector_forms(forms.get(DETECTOR_GROUP, {}), len(FEATURE_NAMES))
        check_history_forms({name: group for name, group in forms.items() if name != DETECTOR_GROUP})

    try:
        loaded = load_model(
            path, feature_names=FEATURE_NAMES, feature_table_hash=feature_table_hash(), check_forms=check_forms
        )
        check_history_arrays(loaded.extras)
        return _trained_model(loaded)
    except MemoryError:
        raise ModelError(
            f"{path}: there is not enough memory for this model; give the process more, or train on fewer agents"
        ) from None


def _trained_model(loaded: LoadedModel) -> TrainedModel:
    manifest = loaded.manifest
    seeds, groups, baseline = (loaded.extras[name] for name in ("seeds", "groups", "baseline"))
    # Older models did not record validation; their tails count as not validated.
    tails = {"rehearsed": np.zeros(len(CONCERNS)), **loaded.extras["alarms"]}
    alarms = (tails[name].tolist() for name in ("start", "scale", "share", "days", "rehearsed"))
    shared = Baseline(**baseline)
    return TrainedModel(
        detector=detector_from_model(loaded),
        baseline=shared,
        seeds=_agent_seeds(seeds),
        salt=bytes.fromhex(manifest.salt_hex),
        groups=groups["ids"],
        group_rates=groups["rates"],
        group_events=groups["events"],
        version=manifest.model_version,
        baseline_version=baseline_digest(shared),
        exponents=_by_concern(groups["exponent"].tolist()),
        alarms=_by_concern(
            AlarmTail(start, scale, share, int(days), validated > 0.0)
            for start, scale, share, days, validated in zip(*alarms, strict=True)
        ),
        window_ms=(manifest.window.from_ms, manifest.window.to_ms),
        challenges=CallChallenges.from_settings(manifest.settings),
        sensitive_types=_setting(manifest.settings, "sensitive_types", tuple[str, ...], []),
        told_target_rate=_setting(manifest.settings, "told_target_rate", _Rate, 1.0),
    )


def _agent_seeds(arrays: dict[str, npt.NDArray[Any]]) -> AgentSeeds:
    """Return the agents of the history. Older models lack some arrays: what these count is unknown."""
    rows = np.zeros(len(arrays["keys"]), layout.STATE_ROW)
    rows["known"] = layout.UNCOUNTED
    for name in layout.STATE_ROW.names or ():
        if name in arrays:
            rows[name] = arrays[name]
    seeds = AgentSeeds.unvalidated(arrays["keys"], arrays["checks"], rows, arrays["events"])
    return dataclasses.replace(seeds, **{name: arrays[name] for name in ("odd", "rehearsed") if name in arrays})


def _setting(settings: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    try:
        return msgspec.convert(settings.get(name, default), kind)
    except msgspec.ValidationError as error:
        raise ModelError(f"manifest.json: settings.{name} is wrong ({error}); retrain") from None


# The model of a service that has learned nothing yet: no event is anomalous to it, and every agent is unknown.
#
# It is a model like any other, so that the pipeline keeps the state of agents, meets every order in the log, and
# continues with the first trained model as with any later one. Its detector is one whose features have no importance.


LEARNING_VERSION: Final = "learning"
"""Name of the model in answers and decisions until a trained one is active."""

_ROWS = 64  # all alike; a detector wants 50
_EVENTS_PER_DAY = 1_000.0
"""Assumed pace, which is that of a busy agent because the real one is unknown. Thresholds are so high that only a hard
signal of a compromise raises a level alone; lesser ones raise it in number."""


def make_learning_model(salt: bytes) -> TrainedModel:
    """Return a model that has not learned anything."""
    detector, _ = fit_detector(
        np.zeros((_ROWS, FEATURE_COUNT)),
        np.zeros(_ROWS, np.uint64),
        np.arange(_ROWS, dtype=np.uint64),
        DetectorSettings(),
        FEATURE_NAMES,
        importance=np.zeros(FEATURE_COUNT),
        version=LEARNING_VERSION,
    )
    baseline, nothing = empty_baseline(), AlarmTail.empty()
    return TrainedModel(
        detector=detector,
        baseline=baseline,
        seeds=AgentSeeds.empty(),
        salt=salt,
        groups=np.zeros(1, np.uint64),
        group_rates=np.array([_EVENTS_PER_DAY]),
        group_events=np.zeros(1, np.int64),
        version=LEARNING_VERSION,
        baseline_version=baseline_digest(baseline),
        exponents=(1.0, 1.0, 1.0),
        alarms=(nothing, nothing, nothing),
        window_ms=(0, 0),
    )


def save_learning_model(path: Path, created_ms: int) -> ModelManifest:
    """Save a model that has not learned anything, under a new salt."""
    return save_trained_model(path, make_learning_model(secrets.token_bytes(16)), DetectorSettings(), 0, created_ms)


# Storage of model versions: one directory each, and the one that the operator installed next to them.


_MAX_DIRECTORY_NAME = 120


class RegisteredModel(NamedTuple):
    """A model in the registry. `digest` is that of its manifest, which covers every file."""

    manifest: ModelManifest
    digest: str

    @property
    def version(self) -> str:
        return self.manifest.model_version


class ModelRegistry:
    """The model versions in one directory."""

    def __init__(self, root: Path, installed_model: Path) -> None:
        self.root = root
        self._installed = installed_model
        self._learns: dict[str, bool] = {}

    def directory_of(self, version: str) -> Path:
        """Return the directory of a version. Raises ModelError if the name cannot be a directory's."""
        name = quote(version, safe="")
        if not name or name.startswith(".") or len(name) > _MAX_DIRECTORY_NAME:
            raise ModelError(
                f"{version!r} cannot name a directory: use at most {_MAX_DIRECTORY_NAME} plain characters, no dot first"
            )
        return self.root / name

    def installed_model(self) -> RegisteredModel:
        """Return the model that the operator installed. Raises ModelError."""
        return RegisteredModel(*read_manifest(self._installed))

    def register_installed(self) -> RegisteredModel:
        """Copy the installed model into the registry unless it is there. Raises ModelError, OSError."""
        installed = self.installed_model()
        directory = self.directory_of(installed.version)
        if not self._contains(directory, installed.digest):
            try:
                copy_model(self._installed, directory)
            except (OSError, ModelError):
                if not self._contains(directory, installed.digest):  # else another process of the service was quicker
                    raise
        return installed

    @staticmethod
    def _contains(directory: Path, digest: str) -> bool:
        try:
            return is_model(directory) and read_manifest(directory)[1] == digest
        except ModelError:
            return False

    def find_directory(self, version: str, digest: str | None = None) -> Path:
        """Return the directory that holds *version*: in the registry, or the installed model itself.

        Raises:
            ModelError: the version does not exist, or its digest is not *digest*.
        """
        for path in (self.directory_of(version), self._installed):
            if is_model(path):
                manifest, actual_digest = read_manifest(path)
                if manifest.model_version == version and digest in (None, actual_digest):
                    return path
        exactly = "" if digest is None else f" with digest {digest[:12]}…"
        raise ModelError(
            f"model {version!r}{exactly} is not at {self.directory_of(version)}: "
            "restore that directory from a back-up, or let all machines share it"
        )

    def learns(self, version: str, digest: str) -> bool:
        """Return whether a version is a model that has not learned anything. Raises ModelError.

        This is called every second; a model with a digest does not change.
        """
        if digest not in self._learns:
            self._learns[digest] = read_manifest(self.find_directory(version, digest))[0].learns
        return self._learns[digest]

    def load(self, version: str, digest: str | None = None) -> TrainedModel:
        """Read and verify a version. Raises ModelError."""
        return load_trained_model(self.find_directory(version, digest))

    def versions(self) -> Iterator[RegisteredModel]:
        """Return the readable manifests in the registry."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and is_model(path):
                try:
                    yield RegisteredModel(*read_manifest(path))
                except ModelError:
                    continue

    def remove(self, version: str) -> None:
        """Remove a version's directory, if it exists."""
        shutil.rmtree(self.directory_of(version), ignore_errors=True)
