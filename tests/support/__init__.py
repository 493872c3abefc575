"""Helpers of tests, imported relatively (`..support.NAME`). No test module imports another test module or a conftest."""
