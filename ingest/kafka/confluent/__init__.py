"""The fast client (extra `fast`), confluent-kafka over librdkafka, and the only importer of it."""
