"""Compiles what a worker of the distributed form needs besides `train` and `replay`: see `warm-kernels`.

Usage: warm-worker.py MODEL
"""

import sys
from pathlib import Path

from trustwatch.api.serve.wiring import context
from trustwatch.api.settings import Settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.kafka import KafkaSettings
from trustwatch.ingest.kafka import warm_up as warm_up_reading
from trustwatch.models.persist import load
from trustwatch.scoring.warm import warm_up

model = load(Path(sys.argv[1]))
warm_up(model, ColumnEncoder(model.salt, {}), context(Settings()))
warm_up_reading(KafkaSettings(bootstrap_servers=("127.0.0.1:9092",)))  # none is asked
