"""The command line: a stable contract (DESIGN section 7). Exit status 0 is done, 1 failed, 2 usage."""

from .main import main

__all__ = ["main"]
