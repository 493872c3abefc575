"""Events and feature vectors as partitioned Parquet files: for analysts' tools, and to be replayed.

- `files`: how files are named, listed (`data_files`), locked (`rewrite_lock`, `reading`) and replaced (`replace`).
- `position`: up to where the log is archived; `spool`: what the pipeline leaves for the vectors.
- `writer`, `vectors`, `merging`: make and merge files; `reader` and `rows`: read them. These need the extra `archive`
  (pyarrow), the others do not.
"""
