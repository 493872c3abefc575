"""Compiles what a worker of the distributed form needs besides `train` and `replay`: see `warm-kernels`.

Usage: warm-worker.py MODEL
"""

import sys
from pathlib import Path

from trustwatch.api.composition import live_policy
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.pipeline.processor import warm_up

model = load_trained_model(Path(sys.argv[1]))
warm_up(model, ColumnEncoder(model.salt, {}), live_policy(Settings()))
