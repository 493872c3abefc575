"""Trustwatch: continuous trust for AI agents. Audit events in, explained and calibrated risk out.

The folders `ingest`, `models`, `scoring`, `api`, `client`, `lab` and `simulator` of the repository install as packages
of this one (`trustwatch.ingest` and so on). Importing it loads none of them and has no effect.
"""

from importlib.metadata import version

__version__ = version("trustwatch")
