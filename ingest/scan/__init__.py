"""Compiled kernels from the bytes of native JSON events straight to columns (docs/decisions/0011-scanner.md).

`RawEncoder` returns what `decode_event` and `ColumnEncoder` return, bit for bit. Its kernels read only records that are
plain in every way; all others go through `decode_event`, which alone decides what is malformed.
"""
