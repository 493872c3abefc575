"""Models: feature vectors in, anomaly scores and p-values out. May import ingest."""
