"""Reports as one HTML file: no script, no network, prints well."""

from .page import render_report

__all__ = ["render_report"]
