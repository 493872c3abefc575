"""docs/ingest-topics.md: the settings load, and its record becomes its event through the role itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trustwatch.api.edge import Admission, AgentRegistry
from trustwatch.api.edge.sources import topic_binding
from trustwatch.api.settings import load_settings
from trustwatch.ingest.formats import FORMATS
from trustwatch.ingest.formats.expressions import Expression

PAGE = (Path(__file__).parents[2] / "docs" / "ingest-topics.md").read_text()


def block(name: str) -> str:
    """The fenced block behind a comment of that name."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_does_what_the_page_says(tmp_path: Path) -> None:
    """Settings, record and event of the page belong together, to the byte of its id."""
    path = tmp_path / "settings.yaml"
    path.write_text(block("example"))
    (topic,) = load_settings(path, {}).kafka.topics

    parcels, skipped = topic.parser()(block("record").strip().encode(), {})
    record = Admission(AgentRegistry(())).admit(parcels[0], topic_binding(topic), 1_800_000_000_000)

    assert skipped == 0 and len(parcels) == 1
    assert json.loads(record.payload) == json.loads(block("event"))
    assert b"secret" not in record.payload


def test_all_formats_are_listed() -> None:
    """The table of the page is the registry."""
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)) - {"format"} == set(FORMATS)


def test_all_functions_are_named() -> None:
    """Each function of the page exists."""
    for text in ("no_query('a?b')", "host('a:1')", "ms('1.5s')", "scale(`2`, `3`)", "sha256('a')"):
        assert text.partition("(")[0] in PAGE
        assert Expression(text)({}) is not None
