"""The default client, kafka-python, and the only importer of it."""
