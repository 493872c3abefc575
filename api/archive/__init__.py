"""The archive of events and feature vectors as Parquet files."""
