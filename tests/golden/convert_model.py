"""Converted the stored model from format 5 to 6: `python -m tests.golden.convert_model`, run once.

Format 6 lets each concern move levels: it has the exponent, the alarms and the calibration of known agents by concern.
The history of this model is gone. What it knew of all evidence is kept for malfunction, which asks about all evidence
that this model has, and stands in for the others; known agents are judged as strangers by them. Operators, who have
their history, train again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from trustwatch.models.calibration import Calibration
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_directory import manifest_digest

from .collecting import MODEL
from .support import pack, unpack

FOR_EACH = (
    "extras/groups/exponent.npy",
    *(f"extras/alarms/{name}.npy" for name in ("start", "scale", "share", "days")),
)


def main() -> None:
    """Convert it."""
    with tempfile.TemporaryDirectory() as made:
        folder = unpack(MODEL, Path(made) / "model")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["format_version"] == 5, "it is converted"
        for name in (f"extras/{array}.npy" for array in FOR_EACH):
            write_array(folder, manifest["files"], name, np.repeat(np.load(folder / name), len(CONCERNS)))
        for concern in CONCERNS:
            for field, empty in Calibration.empty()._asdict().items():
                known = np.load(folder / f"detector/familiar_{field}.npy") if concern == "malfunction" else empty
                write_array(folder, manifest["files"], f"detector/familiar_{concern}_{field}.npy", known)
        manifest["settings"]["detector"]["budget_shares"] = list(DetectorSettings().budget_shares)
        manifest["format_version"] = 6
        manifest["digest"] = manifest_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
        pack(folder, MODEL)


def write_array(folder: Path, files: dict[str, object], name: str, array: np.ndarray) -> None:
    """Write one array and its entry in the manifest."""
    raw = BytesIO()
    np.save(raw, array, allow_pickle=False)
    (folder / name).write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    files[name] = {"dtype": array.dtype.str, "sha256": digest, "shape": list(array.shape)}


if __name__ == "__main__":
    main()
