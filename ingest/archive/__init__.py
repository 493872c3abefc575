"""Events as partitioned Parquet files: for analysts' tools, and to be replayed.

`writer` and `reader` need the extra `archive` (pyarrow); `position` does not.
"""
