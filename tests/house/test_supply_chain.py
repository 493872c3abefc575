"""What we install is locked, audited and listed; what a scanner is told to pass over has a reason."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import audit

from ..support.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECTS = {
    "trustwatch": PROJECT["project"],
    "trustwatch-client": tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"],
}
MAKEFILE = (ROOT / "Makefile").read_text()
PRODUCT = re.findall(r"^PRODUCT := (.*)", MAKEFILE, re.MULTILINE)[0].split()
LOCKED = re.compile(r"^([\w.-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)
NOTED = re.compile(r"# nosec(?P<rules>(?: B\d{3})*)(?: # (?P<reason>\w.*))?$")


def locked(name: str) -> list[tuple[str, str]]:
    """Names and versions of a lock; there may be more than one version, each for a version of Python."""
    text = (ROOT / "deploy" / f"{name}.lock").read_text()
    return [(canonicalize_name(found[1]), found[2]) for found in LOCKED.finditer(text)]


def required(project: str, extra: str) -> list[Requirement]:
    """Requirements of an extra of a project, and of the extras of ours that it names."""
    return [one for text in PROJECTS[project]["optional-dependencies"][extra] for one in others(Requirement(text))]


def others(one: Requirement) -> list[Requirement]:
    """A requirement, or those of a project of ours and the extras that are named."""
    if one.name not in PROJECTS:
        return [one]
    inner = [Requirement(text) for text in PROJECTS[one.name]["dependencies"]] if one.name != "trustwatch" else []
    return inner + [found for extra in one.extras for found in required(one.name, extra)]


@pytest.mark.parametrize(
    ("extra", "locks"), [("dev", ()), ("fuzz", ("fuzz",)), ("bench", ("bench",)), ("docs", ("docs",))]
)
def test_locks_hold_what_is_required(extra: str, locks: tuple[str, ...]) -> None:
    """Every requirement of the product and of the extra, in a version that it allows."""
    there = [pin for name in ("development", *locks) for pin in locked(name)]
    base = [found for text in PROJECT["project"]["dependencies"] for found in others(Requirement(text))]
    wanted = required("trustwatch", extra) + base

    missing = [
        str(one)
        for one in wanted
        if not any(name == canonicalize_name(one.name) and version in one.specifier for name, version in there)
    ]

    assert len(wanted) > 20
    assert missing == []


def test_we_develop_with_what_the_image_has() -> None:
    """The same versions of everything that both install; what another lock adds is added once.

    What `make setup` installs on Windows alone is added for the others.
    """
    development, image = dict(locked("development")), dict(locked("requirements"))
    lines = (ROOT / "deploy" / "development.lock").read_text(encoding="utf-8").splitlines()
    elsewhere = {line.partition("==")[0] for line in lines if "== 'win32'" in line}

    assert {name: development[name] for name in image} == image
    assert dict(locked("build")).items() <= development.items()
    assert [
        name for lock in ("fuzz", "bench", "docs") for name, _ in locked(lock) if name in development.keys() - elsewhere
    ] == []


def test_make_installs_by_hash() -> None:
    """But for ourselves, which is built with what is there, and for the environment that is to be the newest."""
    newest = MAKEFILE.index("newest: ##"), MAKEFILE.index("lock: $(READY)")
    installs = [
        found[0]
        for found in re.finditer(r"pip install .*", MAKEFILE)
        if not newest[0] < found.start() < newest[1] and "--no-build-isolation --editable ." not in found[0]
    ]

    assert len(installs) == 5
    assert [one for one in installs if "--require-hashes --no-deps --requirement deploy/" not in one] == []


def advisory(**affected: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": "Some.Package"}
    return {"id": "MADE-UP-1", "modified": "2026-11-01T00:00:00Z", "affected": [{"package": package, **affected}]}


def dump(path: Path, *advisories: dict[str, Any]) -> Path:
    with ZipFile(path, "w") as archive:
        for one in advisories:
            archive.writestr(f"{one['id']}.json", json.dumps(one))
    return path


def test_audit_without_the_internet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A weakness of one locked package is found in a copy of the advisories, and one of another version is not."""
    (tmp_path / "our.lock").write_text(f"some-package==1.2 \\\n    --hash=sha256:{'0' * 64}\n")
    arguments = [str(tmp_path / "our.lock"), "--advisories"]
    known = dump(tmp_path / "known.zip", advisory(versions=["1.2"], ranges=[]))
    other = dump(tmp_path / "other.zip", advisory(versions=["1.1"]))

    assert audit.main([*arguments, str(known)]) == 1
    assert "some-package 1.2: MADE-UP-1" in capsys.readouterr().out
    assert audit.main([*arguments, str(other)]) == 0
    assert "0 known weaknesses" in capsys.readouterr().out


def test_audit_that_checked_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No service, no dump, a dump of something else: never "nothing known"."""
    lock = tmp_path / "our.lock"
    lock.write_text(f"some-package==1.2 \\\n    --hash=sha256:{'0' * 64}\n")
    (tmp_path / "text.zip").write_text("no archive")
    empty, foreign = dump(tmp_path / "empty.zip"), dump(tmp_path / "foreign.zip", {"id": "X", "affected": ["?"]})

    with pytest.raises(SystemExit, match="2"):
        audit.audit_lock(lock, ["--osv-url", "http://127.0.0.1:9/v1/query"])
    for wrong in (tmp_path / "text.zip", empty, foreign, tmp_path / "nowhere.zip"):
        with pytest.raises(SystemExit, match="2"):
            audit.main([str(lock), "--advisories", str(wrong)])
    assert capsys.readouterr().err.count("NOTHING WAS CHECKED") == 5


def test_the_list_of_what_is_installed_is_valid(tmp_path: Path) -> None:
    """`make sbom` writes CycloneDX that its own schema takes, with every locked package and its hashes."""
    recipe = re.findall(r"\$\(BIN\)/cyclonedx-py ((?:.*\\\n)*.*)", MAKEFILE)[0].replace("\\\n", " ")
    target = tmp_path / "sbom.json"
    arguments = shlex.split(recipe.replace("var/trustwatch.cdx.json", str(target)))

    done = subprocess.run([sys.executable, "-m", "cyclonedx_py", *arguments], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    text = target.read_text()
    found = json.loads(text)
    assert JsonStrictValidator(SchemaVersion.from_version(found["specVersion"])).validate_str(text) is None
    components = {(canonicalize_name(one["name"]), one["version"]): one for one in found["components"]}
    assert sorted(components) == sorted(locked("requirements"))
    assert all(one["externalReferences"][0]["hashes"] for one in components.values())
    assert found["metadata"]["component"]["name"] == "trustwatch"


def bandit(path: Path) -> int:
    command = [sys.executable, "-m", "bandit", "--quiet", "--configfile", str(ROOT / "pyproject.toml"), str(path)]
    return subprocess.run(command, capture_output=True).returncode


def test_bandit_bites(tmp_path: Path) -> None:
    """With our exceptions it takes what is harmless and nothing else."""
    (tmp_path / "harmless.py").write_text("def double(number):\n    return 2 * number\n")
    (tmp_path / "harmful.py").write_text("import pickle\n\n\ndef load(data):\n    return pickle.loads(data)\n")

    assert bandit(tmp_path / "harmless.py") == 0
    assert bandit(tmp_path / "harmful.py") == 1


def test_what_bandit_leaves_out_ruff_holds() -> None:
    """The same rules, over the product, without a general exception; asserts are looked at here."""
    skipped = {rule.replace("B", "S") for rule in PROJECT["tool"]["bandit"]["skips"]} - {"S101"}
    lint = PROJECT["tool"]["ruff"]["lint"]
    excepted = {folder.split("/")[0] for folder, rules in lint["per-file-ignores"].items() if "S" in rules}

    assert "S" in lint["select"]
    assert not skipped & set(lint["ignore"])
    assert not excepted & {*PRODUCT, "deploy"}
    assert set(PROJECT["tool"]["bandit"]) == {"skips"}


def is_narrowing(test: ast.expr) -> bool:
    """True for `x is not None`, `x is None`, `isinstance(x, …)`, and several of them."""
    if isinstance(test, ast.BoolOp):
        return all(is_narrowing(part) for part in test.values)
    if isinstance(test, ast.Compare):
        return all(isinstance(op, ast.Is | ast.IsNot) for op in test.ops)
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance"


def test_asserts_of_the_product_only_tell_the_type_checker() -> None:
    """`python -O` takes them out: what must hold is an `if`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and not is_narrowing(node.test)
    ]

    assert wrong == []


def test_exceptions_of_bandit_name_the_rule_and_the_reason() -> None:
    """Beside the line; a bare mark would hide whatever comes later."""
    marks = [
        (f"{path.relative_to(ROOT)}:{number}", NOTED.search(line))
        for folder in (*PRODUCT, "deploy", "benchmarks", "examples", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "# nosec" in line
    ]

    assert marks
    assert [where for where, found in marks if not (found and found["rules"] and found["reason"])] == []
