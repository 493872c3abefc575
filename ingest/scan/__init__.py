"""Compiled kernels from the bytes of native JSON events straight to columns (docs/decisions/0011-scanner.md).

`RawEncoder` gives what `decode_event` and `ColumnEncoder` give, bit for bit. Its kernels read only records that are
plain in every way; any other record takes the way through `decode_event`, which alone decides what is malformed.
"""
