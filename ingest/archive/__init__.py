"""Events and feature vectors as partitioned Parquet files: for analysts' tools, and to be replayed.

- `archive_files`: names of the files, how they are listed, locked and replaced.
- `vector_spool`: what the pipeline leaves for the vectors.
- `event_archive`, `vector_archive`, `file_merging` and `archive_erasure` make, merge and rewrite files;
  `archive_reader`, `arrow_reader` and `latest_events` read them.
"""
