"""Opens what reads, writes and manages topics on the brokers of the settings.

Only this module and the settings know which program keeps topics; all other code uses `ingest/topics` and
`ingest/source.py`.
"""

from __future__ import annotations

from trustwatch.ingest.kafka import open_admin, open_group_source, open_reader, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings as BrokerSettings

TOPIC_PREFIX = "kafka:"
"""Beginning of a history that is read from a topic, on the command line."""
TOPIC_FORM = f"{TOPIC_PREFIX}//HOST:PORT,…/TOPIC"
"""Such a history in full."""

__all__ = [
    "TOPIC_FORM",
    "TOPIC_PREFIX",
    "BrokerSettings",
    "open_admin",
    "open_group_source",
    "open_reader",
    "open_writer",
]
