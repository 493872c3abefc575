"""Helpers of tests, imported as `tests.support.NAME`. No test module imports another test module or a conftest."""
