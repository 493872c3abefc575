"""Docstrings and comments name what there is: parameters, attributes, identifiers, and examples that hold.

A docstring begins with what it is about, or what it does: never with a question word.

A rename by script leaves prose behind; each rule below is proved on a text with such a leftover.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from ..support.checkout import ROOT

PRODUCT = ("ingest", "models", "scoring", "api", "client", "lab", "simulator", "trustwatch")

FOREIGN_NAMES = frozenset(
    {
        "AADManagedIdentitySignInLogs",  # tables of Azure's Log Analytics
        "AADNonInteractiveUserSignInLogs",
        "AADServicePrincipalSignInLogs",
        "SigninLogs",
        "AdminEvent",  # Keycloak
        "AWS_ACCESS_KEY_ID",  # the environment of S3's clients
        "AWS_ALLOW_HTTP",
        "AWS_ENDPOINT_URL",
        "AWS_PROXY_URL",
        "AnyValue",  # OpenTelemetry
        "BaseCoordinator.join_group_async",  # kafka-python
        "Host",  # headers of HTTP
        "Location",
        "Files.ReadWrite",  # a scope of Microsoft's
        "NUMBA_CACHE_DIR",
        "TRUSTWATCH_PORT",  # an example of a settings variable
        "api.call",  # an event type
        "client.change",  # an event type
        "interruptOnError",  # Zitadel
        "realm_access.roles",  # a claim of Keycloak's
        "restCall",  # Zitadel
    }
)
"""Names of others in back-ticks or capitals; a full stop in one makes no exception of its parts."""

_QUOTED = re.compile(r"`+([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(\))?`+")
_CONSTANT = re.compile(r"(?<![\w.])_?[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")
_CLASS_LIKE = re.compile(r"_?[A-Z]\w*[a-z]\w*")
_SECTION_ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*):")
_SHAPE = re.compile(r"\([\w +*]+,[\w +*, ]*\)")
_SHAPE_CONSTANT = re.compile(r"\b[A-Z]{3,}\b")
_STANDARDS = frozenset({"RFC", "JWE", "JWS", "JSON", "DEL"})


class Prose(NamedTuple):
    """A docstring or comment, and the line that it begins in."""

    line: int
    text: str


class Module(NamedTuple):
    """A module of the product, as read."""

    path: str
    tree: ast.Module
    prose: list[Prose]
    docstrings: list[Prose]
    """Those of `prose` that are no comments."""
    names: set[str]
    """Every name and single-word text in the code: what prose can speak of."""
    members: set[str]
    """What `module.member` can name."""

    @property
    def dotted(self) -> str:
        """Name without the package of the distribution, such as `scoring.engine.risk`."""
        parts = Path(self.path.removeprefix("client/")).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Vocabulary(NamedTuple):
    """Names that prose may use."""

    names: set[str]
    members: dict[str, set[str]]
    """Members by the dotted name of a module or package, and by a module's name alone."""


def read_module(path: str, source: str) -> Module:
    """Take the prose and the names out of a module's source."""
    tree = ast.parse(source)
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    docstrings = [Prose(text.lineno, str(text.value)) for text in texts]
    prose = docstrings[:]
    names: set[str] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            names.add(token.string)
        elif token.type == tokenize.COMMENT:
            prose.append(Prose(token.start[0], token.string))
    constants_in_docstrings = set(map(id, texts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in constants_in_docstrings:
            names.update(_words(node.value))
    return Module(path, tree, prose, docstrings, names, set(_members(tree)))


def _words(text: str) -> list[str]:
    """A text that is one name, such as a key or a path of keys, and its parts."""
    return [text, *text.split(".")] if re.fullmatch(r"[\w.]+", text) else []


def _members(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


@cache
def product() -> tuple[Module, ...]:
    """All modules of the product."""
    paths = [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(read_module(str(path.relative_to(ROOT)), path.read_text()) for path in paths)


def undocumented_sections(module: Module) -> Iterator[str]:
    """Names under `Args:` that are no parameters (of a class: of its constructor, or fields), and under `Attributes:`
    that are no attributes."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters, attributes = _parameters(node), set[str]()
        elif isinstance(node, ast.ClassDef):
            parameters, attributes = _constructor_parameters(node), _attributes(node)
            if not attributes:  # all is inherited
                continue
        else:
            continue
        text = ast.get_docstring(node) or ""
        for title, known in (("Args", parameters), ("Attributes", attributes)):
            for name in _section_names(text, title):
                if name not in known:
                    yield f"{module.path}:{node.lineno} {node.name}: {title} names {name}"


def _section_names(docstring: str, title: str) -> list[str]:
    section = re.search(rf"^{title}:\n((?:(?:    .*)?\n)+)", docstring + "\n", re.M)
    lines = section.group(1).splitlines() if section else []
    return [
        name.strip(" *")
        for line in lines
        if (entry := _SECTION_ENTRY.match(line))
        for name in entry.group(1).split(",")
    ]


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = function.args
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
    return {parameter.arg for parameter in every if parameter is not None}


def _fields(class_: ast.ClassDef) -> set[str]:
    return {
        node.target.id for node in class_.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _constructor_parameters(class_: ast.ClassDef) -> set[str]:
    constructors = [
        node for node in class_.body if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__new__")
    ]
    return _fields(class_).union(*map(_parameters, constructors))


def _attributes(class_: ast.ClassDef) -> set[str]:
    methods = [node for node in class_.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    stored = {
        node.attr
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return _fields(class_) | stored | {method.name for method in methods} | _constructor_parameters(class_)


def unknown_names(module: Module, vocabulary: Vocabulary) -> Iterator[str]:
    """What looks like a name of ours in the prose of a module, and is none."""
    for line, text in module.prose:
        for match in _QUOTED.finditer(text):
            if match.group(1) not in FOREIGN_NAMES and not _is_known(match.group(1), vocabulary):
                yield f"{module.path}:{line + text.count(chr(10), 0, match.start())} {match.group(1)}"
        for match in _CONSTANT.finditer(text):
            if match.group() not in vocabulary.names | FOREIGN_NAMES:
                yield f"{module.path}:{line + text.count(chr(10), 0, match.start())} {match.group()}"
        for match in _SHAPE.finditer(text):
            for constant in set(_SHAPE_CONSTANT.findall(match.group())) - vocabulary.names - _STANDARDS:
                yield f"{module.path}:{line + text.count(chr(10), 0, match.start())} {constant}"


def vocabulary_of(modules: Iterable[Module]) -> Vocabulary:
    """All names of some modules."""
    names, members = set(dir(builtins)), dict[str, set[str]]()
    for module in modules:
        parts = module.dotted.split(".")
        names.update(module.names, parts)
        members.setdefault(module.dotted, set()).update(module.members)
        members.setdefault(parts[-1], set()).update(module.members)
        for at in range(1, len(parts)):
            members.setdefault(".".join(parts[:at]), set()).add(parts[at])
    return Vocabulary(names, members)


def _is_known(name: str, vocabulary: Vocabulary) -> bool:
    """Tell whether a name in back-ticks exists. Words in small letters may be anybody's, such as a member of JSON."""
    parts = name.removeprefix("trustwatch.").split(".")
    if len(parts) == 1:
        return name in vocabulary.names or not (_CLASS_LIKE.fullmatch(name) or name.isupper())
    if parts[-1] == "py":
        return parts[-2] in vocabulary.names
    if not (_CLASS_LIKE.fullmatch(parts[0]) or parts[0] in PRODUCT or "_" in parts[0] or parts[-1].isupper()):
        return True  # a setting, a file or an event type
    for at in range(len(parts) - 1, 0, -1):
        known = vocabulary.members.get(".".join(parts[:at]))
        if known is not None:
            return parts[at] in known
    return all(part in vocabulary.names for part in parts)


def modules_with_examples() -> list[str]:
    """Names of the modules whose docstrings have examples."""
    found = [module for module in product() if any(">>>" in prose.text for prose in module.prose)]
    return [name if (name := module.dotted).startswith("trustwatch") else f"trustwatch.{name}" for module in found]


def test_sections_name_parameters_and_attributes() -> None:
    """Of the signature, as it is now."""
    assert [hit for module in product() for hit in undocumented_sections(module)] == []


def test_names_in_prose_exist() -> None:
    """In docstrings and comments of the product."""
    vocabulary = vocabulary_of(product())

    assert [hit for module in product() for hit in unknown_names(module, vocabulary)] == []


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_hold(name: str) -> None:
    """The examples in docstrings."""
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


LEFTOVERS = '''
"""Reads `Parcel` of `layout.ROW`, at most MAX_KEPT (see `scoring.policy.denied`)."""


def read(key: str) -> None:
    """Read.

    Args:
        route: the key.
    """


class Entry:
    """An entry.

    Args:
        most: kept.

    Attributes:
        answer: cached, shape (n, PLACES).
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
'''


def test_leftovers_of_a_rename_are_found() -> None:
    """Every kind of them."""
    module = read_module("scoring/leftovers.py", LEFTOVERS)

    assert [hit.rpartition(" ")[2] for hit in undocumented_sections(module)] == ["route", "most", "answer"]
    hits = [hit.rpartition(" ")[2] for hit in unknown_names(module, vocabulary_of((*product(), module)))]
    assert sorted(hits) == ["MAX_KEPT", "PLACES", "Parcel", "layout.ROW", "scoring.policy.denied"]
