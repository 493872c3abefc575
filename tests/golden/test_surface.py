"""What users see of the program is what was recorded: HTTP, commands, settings, metrics, tables.

Prose, operation ids and names of schemas may change. Who changes the rest on purpose records it anew, and shows the
difference: `python -m tests.golden.record FILE`.
"""

from __future__ import annotations

import pytest

from .collecting import DECLARED, MODEL, SERVED, Served, serve
from .support import RECORDED, assert_same_rows, read_rows, unpack

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A whole service was started once, asked, and ended."""
    folder = tmp_path_factory.mktemp("golden")
    return serve(folder / "service", unpack(MODEL, folder / "model"))


@pytest.mark.parametrize("name", DECLARED)
def test_declarations_are_as_recorded(name: str) -> None:
    """Commands with options, types and defaults; settings with types, defaults and bounds; metrics with labels."""
    assert_same_rows(DECLARED[name](), read_rows(RECORDED / name))


@pytest.mark.parametrize("name", SERVED)
def test_a_service_shows_what_was_recorded(served: Served, name: str) -> None:
    """OpenAPI member by member, the schema of events, names and types in /metrics, the tables of its database."""
    assert_same_rows(SERVED[name](served), read_rows(RECORDED / name))
