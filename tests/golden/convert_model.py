"""Converted the stored model to the present features: `python -m tests.golden.convert_model`, run once per change.

Last it got `argument_route` and `sensitive_route`. Its history knows of no route, so the new features have no evidence;
every other array keeps its content. Operators, who have their histories, train again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.earlier_layout import STATE_ROW_WITH_HABITS, converted
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES, feature_table_hash
from trustwatch.models.concerns import FeatureRoles
from trustwatch.models.model_directory import manifest_digest

from .collecting import MODEL
from .support import pack, unpack

NEW = FEATURES[-2:]


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = unpack(MODEL, Path(made) / "model")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["feature_names"] == list(FEATURE_NAMES[: -len(NEW)]), "it is converted, or of another table"
        convert_history(folder, manifest["files"])
        convert_detector(folder, manifest["files"])
        manifest["feature_names"] = list(FEATURE_NAMES)
        manifest["feature_table_hash"] = feature_table_hash()
        manifest["digest"] = manifest_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
        pack(folder, MODEL)


def convert_history(folder: Path, files: dict[str, object]) -> None:
    """Give agents room for which answers of their sessions were sensitive."""
    names = STATE_ROW_WITH_HABITS.names or ()
    seeds = {name: np.load(folder / f"extras/seeds/{name}.npy") for name in names}
    rows = np.zeros(len(seeds["times"]), STATE_ROW_WITH_HABITS)
    for name, array in seeds.items():
        rows[name] = array
    made = converted(rows)
    for name in layout.STATE_ROW.names or ():
        write_array(folder, files, f"extras/seeds/{name}.npy", np.ascontiguousarray(made[name]))


def convert_detector(folder: Path, files: dict[str, object]) -> None:
    """Give the detector the new features, which bring no evidence."""
    state = {path.stem: np.load(path) for path in sorted((folder / "detector").glob("*.npy"))}
    tail_x = np.full(state["tail_x"].shape[1], np.inf)
    tail_x[0] = 0.0
    more = {"tail_x": tail_x, "tail_u": np.zeros(state["tail_u"].shape[1])}
    more |= {"tail_rate": np.zeros(state["tail_rate"].shape[1]), "usual_median": 0.0, "usual_upper": 0.0}
    for feature in NEW:
        roles = {f"role_{name}": np.uint8(getattr(feature, name)) for name in FeatureRoles._fields}
        for name, row in {**more, "importance": feature.importance, **roles}.items():
            state[name] = np.concatenate([state[name], np.array(row)[None]])
    for name in (*more, "importance", *(f"role_{name}" for name in FeatureRoles._fields)):
        write_array(folder, files, f"detector/{name}.npy", state[name])


def write_array(folder: Path, files: dict[str, object], name: str, array: np.ndarray) -> None:
    """Write one array and its entry in the manifest."""
    raw = BytesIO()
    np.save(raw, array, allow_pickle=False)
    (folder / name).write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    files[name] = {"dtype": array.dtype.str, "sha256": digest, "shape": list(array.shape)}


if __name__ == "__main__":
    main()
