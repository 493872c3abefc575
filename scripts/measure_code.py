"""Figures of the product's code: its size, import cycles, and class names that are used twice.

`python -m scripts.measure_code` prints the table of `reference/code.md`.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import grimp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("trustwatch", "ingest", "models", "scoring", "api", "client", "lab", "simulator")


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
    paths = [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
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
    """Print the table."""
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
