"""Parts of `benchmarks.bench_detection`: detection on labelled traces and attacks, beside other libraries."""
