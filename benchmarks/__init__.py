"""Measurements beside a named baseline, each a command: `python -m benchmarks.bench_NAME`."""
