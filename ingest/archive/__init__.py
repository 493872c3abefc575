"""Events and feature vectors as partitioned Parquet files: for analysts' tools, and to be replayed.

- `archive_files` names, lists, locks and replaces files.
- `vector_spool` holds what the pipeline leaves for the vectors.
- `event_archive` writes files, `file_merging` merges them and erases from them, `archive_reader` reads them.
"""
