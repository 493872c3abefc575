"""Reports as one HTML file: no script, no network, prints well."""

from .page import render

__all__ = ["render"]
