"""Converted the stored model from format 3 to 4: `python -m tests.golden.convert_model`, run once.

Format 4 knows agents by 128 bits under the model's salt, where format 3 had the unkeyed hash of 0.1. The names of this
model's agents are those of the week, so every array keeps its content: only the order of the agents is another.
Operators, who have no such list, train again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from trustwatch.ingest.columns import full_name
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import IdentityHasher, unkeyed_agent_key
from trustwatch.models.model_directory import manifest_digest

from .collecting import MODEL, week
from .support import pack, unpack

SEEDS = "extras/seeds"


def main() -> None:
    """Convert it."""
    with tempfile.TemporaryDirectory() as made:
        folder = unpack(MODEL, Path(made) / "model")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["format_version"] == 3, "it is converted"
        convert(folder, manifest)
        manifest["format_version"] = 4
        manifest["digest"] = manifest_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
        pack(folder, MODEL)


def convert(folder: Path, manifest: dict[str, object]) -> None:
    """Give the seeds their new identities, in the order of these."""
    identities = IdentityHasher(bytes.fromhex(str(manifest["salt_hex"])))
    by_key = {unkeyed_agent_key(*name): name for name in {full_name(decode_event(line)) for line in week()}}
    old = np.load(folder / SEEDS / "keys.npy")
    halves = np.array([identities.agent_hash(*by_key[key]) for key in old.tolist()], np.uint64)
    order = np.argsort(halves[:, 0])
    files = manifest["files"]
    assert isinstance(files, dict)
    for path in sorted((folder / SEEDS).glob("*.npy")):
        write_array(folder, files, f"{SEEDS}/{path.name}", np.load(path)[order])
    write_array(folder, files, f"{SEEDS}/keys.npy", halves[order, 0].copy())
    write_array(folder, files, f"{SEEDS}/checks.npy", halves[order, 1].copy())


def write_array(folder: Path, files: dict[str, object], name: str, array: np.ndarray) -> None:
    """Write one array and its entry in the manifest."""
    raw = BytesIO()
    np.save(raw, array, allow_pickle=False)
    (folder / name).write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    files[name] = {"dtype": array.dtype.str, "sha256": digest, "shape": list(array.shape)}


if __name__ == "__main__":
    main()
