"""The documentation is short, its lines too, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.draw_architecture import DRAWING, drawing

from ..support.checkout import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BESIDE = (*sorted((ROOT / "reference").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md")))
"""Pages of the site that are looked up, not read through."""
PYTHON_NAME = re.compile(r"`((?:trustwatch_client|trustwatch\.(?:api|ingest|lab|models|scoring|simulator))(?:\.\w+)*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text(page: Path) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = line.lstrip().startswith("```")
        inside ^= fence
        if not (inside or fence or line.startswith("    ")):
            yield number, line


def heading_anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site make them."""
    headings = (line.lstrip("#") for _, line in text(page) if line.startswith("#"))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).strip().lower() for text in headings)
    return {re.sub(r"[^\w -]", "", text).replace(" ", "-") for text in plain}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", (*PAGES, *BESIDE), ids=name)
def test_fences_are_what_the_site_takes_for_fences(page: Path) -> None:
    """A language, and a name without hyphens: else the page from there on is one line of code, headings too."""
    fences = [line.strip() for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")]
    assert [line for line in fences if not re.fullmatch(r"```([\w.+#-]+( \w+)?)?", line)] == []


@pytest.mark.parametrize("page", (*PAGES, *BESIDE), ids=name)
def test_names_of_python_exist(page: Path) -> None:
    """`trustwatch_client.a2a.TrustA2AHandler`: a module, or a name in one. Topics are called `trustwatch.…`, too."""
    named = {found for _, line in text(page) for found in PYTHON_NAME.findall(line)}

    for dotted in sorted(named):
        package, _, last = dotted.rpartition(".")
        is_named = bool(package) and hasattr(import_module(package), last)
        assert is_named or find_spec(dotted) is not None, dotted


@pytest.mark.parametrize("page", (*PAGES, *BESIDE), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading of it."""
    dead = []
    for target in (found for _, line in text(page) for found in LINK.findall(line)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in heading_anchors(file)):
            dead.append(target)

    assert dead == []


def test_documented_proxies_say_that_a_client_is_not_this_machine() -> None:
    """NGINX alone sets no such header by itself: without one, strangers behind it would count as local."""
    examples = sorted((ROOT / "examples" / "gateways").glob("*.conf"))
    pages = "".join(page.read_text(encoding="utf-8") for page in (*PAGES, *BESIDE, *examples))
    locations = [one for one in re.findall(r"location [^{}]*\{([^{}]*)\}", pages) if ":8420" in one]

    assert len(locations) >= 3
    assert not [one for one in locations if "proxy_set_header X-Forwarded-For $remote_addr;" not in one]


def test_the_drawing_of_the_architecture_is_what_its_script_draws() -> None:
    """`python -m scripts.draw_architecture` draws it; README and the page of the architecture show it."""
    assert DRAWING.read_text(encoding="utf-8") == drawing()
    for page, target in (
        ("README.md", "docs/images/architecture.svg"),
        ("docs/architecture.md", "images/architecture.svg"),
    ):
        assert f"]({target})" in (ROOT / page).read_text(encoding="utf-8")
