"""Opens what reads, writes and manages topics on the brokers of the settings.

Only this module and the settings know which program keeps topics; everybody else sees `ingest/topics` and
`ingest/source.py`.
"""

from __future__ import annotations

from ..ingest.kafka import open_admin, open_group_source, open_reader, open_writer
from ..ingest.kafka.settings import KafkaClientSettings as BrokerSettings

__all__ = ["BrokerSettings", "open_admin", "open_group_source", "open_reader", "open_writer"]
