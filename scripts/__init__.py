"""Programs for those who work on the project, and the real servers that tests, benchmarks and examples start."""
