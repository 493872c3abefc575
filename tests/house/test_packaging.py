"""What is in the tree is what users get."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from trustwatch.ingest.extras import EXTRA_PACKAGES

from ..support.checkout import ROOT

FOLDERS = ("ingest", "models", "scoring", "api", "lab", "simulator")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_package_links_to_every_folder() -> None:
    """The build, editors, type checkers and import-linter follow the links of `trustwatch/`, in any clone."""
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "trustwatch").iterdir() if path.is_symlink()}

    assert links == {folder: f"../{folder}" for folder in FOLDERS}
    assert (ROOT / "trustwatch_client").readlink().as_posix() == "client/trustwatch_client"


def test_trustwatch_says_what_it_is(tmp_path: Path) -> None:
    """`import trustwatch` shows a docstring and the version and loads no layer; `python -m trustwatch` runs."""
    code = (
        "import sys, trustwatch; print(trustwatch.__version__, bool(trustwatch.__doc__),"
        " any(name.startswith('trustwatch.') for name in sys.modules))"
    )

    imported = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "trustwatch", "--help"]
    helped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert imported.stdout.split() == [PROJECT["project"]["version"], "True", "False"]
    assert "console-link" in helped.stdout


@pytest.mark.parametrize("folder", [*(f"trustwatch/{layer}" for layer in (*FOLDERS, "client")), "trustwatch_client"])
def test_importing_has_no_effect(folder: str, tmp_path: Path) -> None:
    """Importing every module of a folder writes no file, and prints nothing."""
    names = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_registry_host_is_committed() -> None:
    """The project names packages, not the hosts they come from."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = tuple(
        "".join(parts) for parts in (("pypi", ".org"), ("python", "hosted.org"), ("npm", "js.org"), ("repo1.", "maven"))
    )

    wrong = [
        name
        for name in files
        if (ROOT / name).is_file() and any(host in (ROOT / name).read_text(errors="ignore") for host in hosts)
    ]

    assert wrong == []


def test_extras_bring_what_is_looked_for() -> None:
    """`trustwatch.ingest.extras` names the packages of pyproject.toml, so that the line it shows mends it."""
    declared = PROJECT["project"]["optional-dependencies"]
    own = {
        extra: {Requirement(text).name for text in declared[extra] if Requirement(text).name != "trustwatch"}
        for extra in EXTRA_PACKAGES
    }

    assert {extra: set(packages.values()) for extra, packages in EXTRA_PACKAGES.items()} == own


def test_extras_are_documented() -> None:
    """Every extra for users has its row; `all` has each of them."""
    declared = PROJECT["project"]["optional-dependencies"]
    users = set(declared) - {"bench", "dev", "docs", "fuzz"}
    rows = re.findall(r"^\| (`[a-z0-9`, ]+`) \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == users
    assert Requirement(declared["all"][0]).extras == users - {"all", "server"}
