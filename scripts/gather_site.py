"""Gather the pages of the site in var/site-pages, from which `make docs` builds it with mkdocs.

Pages keep their places (README, docs/, reference/), so that their links hold. Links to notebooks lead to their executed
pages, which `make notebooks-html` writes to var/notebooks; nothing is executed here. Links to other files of the
repository become text, since they are not part of the site.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "var" / "site-pages"
EXECUTED = ROOT / "var" / "notebooks"
QUICK_STARTS = ("cloudtrail", "distributed", "hydra", "keycloak", "mcp")
FOLDERS = ("docs", "reference", *(f"examples/{name}" for name in QUICK_STARTS))
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE")
NAMED_FENCE = re.compile(r"^(```\w+) \w+$", re.MULTILINE)
"""Beginning of a block that a test runs by its second word, which mkdocs would not take for a block."""
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def copy_pages(to: Path) -> None:
    """The pages with their pictures, links to what is not among them taken away."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, to / name)
    if EXECUTED.is_dir():
        shutil.copytree(EXECUTED, to / "notebooks", ignore=shutil.ignore_patterns("*.ipynb"))
    else:
        print("no executed notebooks in var/notebooks: `make notebooks-html` writes their pages")
    for page in to.rglob("*.md"):
        page.write_text(_without_foreign_links(page, to), encoding="utf-8")


def _without_foreign_links(page: Path, pages: Path) -> str:
    def shown(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        if not target or re.match(r"\w+:", target):
            return link[0]
        executed = re.sub(r"\.ipynb$", ".html", link[2])
        if executed != link[2] and (page.parent / executed).is_file():
            return f"[{text}]({executed})"
        ours = (ROOT / page.relative_to(pages)).parent / target
        return text if ours.exists() and not (page.parent / target).is_file() else link[0]

    return NAMED_FENCE.sub(r"\1", LINK.sub(shown, page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    copy_pages(PAGES)
