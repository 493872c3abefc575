"""Helpers of tests, imported relatively (`..support.NAME`). No test module imports a test module or a conftest."""
