"""The process that archives feature vectors."""

from ..child_process import run_child
from .worker import run_vector_archive

if __name__ == "__main__":
    raise SystemExit(run_child(run_vector_archive))
