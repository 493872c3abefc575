"""Compiles what a worker of the distributed form needs besides `train` and `replay`: see `warm-kernels`.

Usage: warm-worker.py MODEL
"""

import sys
from pathlib import Path

from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from trustwatch.api.serve.wiring import context
from trustwatch.api.settings import Settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.kafka.kafka_python.batches import decode_batch
from trustwatch.models.persist import load
from trustwatch.scoring.warm import warm_up

model = load(Path(sys.argv[1]))
warm_up(model, ColumnEncoder(model.salt, {}), context(Settings()))

builder = DefaultRecordBatchBuilder(
    magic=2, compression_type=0, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
    batch_size=1024,
)  # fmt: skip
builder.append(0, 0, b"key", b"value", [("tw", bytes(9))])
decode_batch(DefaultRecordBatch(builder.build()), 0)
