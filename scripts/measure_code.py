"""Figures of the product's code: its size, import cycles, and class names that are used twice.

`python -m scripts.measure_code` prints the figures, `python -m scripts.measure_code budgets` the weight of each room of
`reference/code.md`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import grimp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trustwatch.api.http.prometheus_metrics import METRICS
from trustwatch.api.settings.root import Settings

from .settings_table import table_rows

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("trustwatch", "ingest", "models", "scoring", "api", "client", "lab", "simulator")
ROOMS = (
    "ingest/features",
    "ingest/formats, ingest/history",
    "ingest/kafka, ingest/topics",
    "ingest/scan",
    "ingest/archive",
    "ingest",
    "models",
    "scoring/engine",
    "scoring/store",
    "scoring/pipeline",
    "scoring/delivery",
    "scoring/backtest, scoring/learning",
    "scoring",
    "api/http",
    "api/console",
    "api/access",
    "api/service, api/cli",
    "api/events",
    "api/cases, api/feedback",
    "api/shared_signals",
    "api/models, api/backtest",
    "api/privacy",
    "api/settings",
    "api",
    "client",
    "lab",
    "simulator",
    "trustwatch",
)
"""Folders of the product that share a budget. A folder within another room counts separately if it has a room."""


class CodeFigures(NamedTuple):
    """What the table shows; cycles are groups of modules that import each other, at run time or for types."""

    lines: int
    modules: int
    module_lines: tuple[float, float]  # median, 95th percentile
    function_lines: tuple[float, float]  # the same, of bodies without docstrings
    longest_function: str
    import_cycles: list[list[str]]
    shared_class_names: list[str]
    format_skips: int


def measure() -> CodeFigures:
    """Figures of the checkout."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in _modules()}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = [len(text.splitlines()) for text in texts.values()]
    functions = [(length, f"{path}:{name}") for path, tree in trees.items() for name, length in functions_of(tree)]
    classes = Counter(name for tree in trees.values() for name in classes_of(tree))
    return CodeFigures(
        sum(lengths),
        len(lengths),
        spread(lengths),
        spread([length for length, _ in functions]),
        "{1} ({0})".format(*max(functions)),
        import_cycles(),
        sorted(name for name, count in classes.items() if count > 1),
        sum(text.count("# fmt: skip") for text in texts.values()),
    )


def lines_of_rooms() -> dict[str, int]:
    """Lines of Python by room."""
    rooms = {folder: room for room in ROOMS for folder in room.split(", ")}
    lines = dict.fromkeys(ROOMS, 0)
    for path in _modules():
        place = path.relative_to(ROOT)
        folder = next(parent.as_posix() for parent in place.parents if parent.as_posix() in rooms)
        lines[rooms[folder]] += len(path.read_text(encoding="utf-8").splitlines())
    return lines


def totals() -> dict[str, int]:
    """What else has a budget: figures of the whole product."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pages = [page for page in map(ROOT.joinpath, listed.splitlines()) if page.is_file()]
    return {
        "lines of the product": sum(lines_of_rooms().values()),
        "modules of the product": len(_modules()),
        "settings": sum(1 for _, kind, *_ in table_rows(Settings) if not kind.split(" or ")[0].endswith("part")),
        "metrics": len(METRICS),
        "words of Markdown": sum(len(page.read_text(encoding="utf-8").split()) for page in pages),
    }


def _modules() -> list[Path]:
    """Links of `trustwatch/` lead to folders that are counted themselves, so they are left out."""
    paths = [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in paths if path.resolve() == path]


def functions_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and lines of the body, without its docstring, of each function that has more than that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and body[-1].end_lineno is not None:
                yield node.name, body[-1].end_lineno - body[0].lineno + 1


def classes_of(tree: ast.AST) -> Iterator[str]:
    """Names of classes, but for those that only their own module can name."""
    return (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))


def spread(lengths: Sequence[int]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return median(lengths), quantiles(lengths, n=20)[-1]


def import_cycles() -> list[list[str]]:
    """Groups of modules that reach each other by imports."""
    graph = grimp.build_graph("trustwatch", exclude_type_checking_imports=False, cache_dir=None)
    return groups_of_cycles({name: graph.find_modules_directly_imported_by(name) for name in graph.modules})


def groups_of_cycles(imports: Mapping[str, Set[str]]) -> list[list[str]]:
    """Names that reach each other, by group, of names and what each of them imports."""
    names = sorted(imports)
    numbers = {name: number for number, name in enumerate(names)}
    edges = [(numbers[importer], numbers[imported]) for importer in names for imported in imports[importer]]
    importers, imported = zip(*edges, strict=True)
    matrix = coo_array(([1] * len(edges), (importers, imported)), (len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        groups.setdefault(label, []).append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def main() -> None:
    """Print the figures, or what `reference/code.md` gives a budget."""
    if sys.argv[1:] == ["budgets"]:
        for name, count in {**lines_of_rooms(), **totals()}.items():
            print(f"| {name} | {count:,} |")
        return
    figures = measure()
    rows = {
        "lines of the product": figures.lines,
        "modules": figures.modules,
        "lines of a module: median, 95th percentile": "{:.0f}, {:.0f}".format(*figures.module_lines),
        "lines of a function's body: median, 95th percentile": "{:.0f}, {:.0f}".format(*figures.function_lines),
        "longest function": figures.longest_function,
        "import cycles": len(figures.import_cycles),
        "class names used twice": len(figures.shared_class_names),
        "`# fmt: skip`": figures.format_skips,
    }
    for label, value in rows.items():
        print(f"| {label} | {value} |")
    for line in (*figures.shared_class_names, *map(", ".join, figures.import_cycles)):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
