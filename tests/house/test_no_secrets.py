"""No file of the repository holds a secret: keys, tokens of well-known services, passwords in URLs."""

from __future__ import annotations

import re
import subprocess

import pytest

from ..support.checkout import ROOT

SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}",
    "key of a cloud": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "token of a code host": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60}|glpat-[\w-]{20})\b",
    "token of a chat": r"\bxox[abprs]-[0-9]{8,}-[\w-]{10,}",
    "token of a registry": r"\b(?:pypi-AgE[\w-]{50}|npm_[A-Za-z0-9]{36})\b",
    "key of a payment service": r"\b[sr]k_live_[A-Za-z0-9]{20}",
    "key of a model": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{40}",
    "signed token": r"\beyJ[\w-]{20,}\.eyJ[\w-]{20,}\.[\w-]{40,}",
    "password in a URL": r"\b[a-z][a-z0-9+]*://[\w.%-]+:(?!(?:password|secret|pass|pw|x|y|p|hunter2|\{|\$|\*))[^\s/@:\"'`<>{}$]{6,}@",
}
EXAMPLES = frozenset({"tests/house/test_no_secrets.py", "tests/api/alerts/test_alert_targets.py"})


CORPUS = "tests/fuzz/corpus/"
"""Tokens there are inputs of the fuzzers, of keys that nothing trusts."""


def tracked_files() -> list[str]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no checkout of git here")
    return [name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("kind", SECRETS)
def test_no_file_holds_a_secret(kind: str) -> None:
    """Take it out of the history too, and have it withdrawn where it is good for something."""
    pattern = re.compile(SECRETS[kind])
    holders = [
        name
        for name in tracked_files()
        if name not in EXAMPLES
        and not name.startswith(CORPUS)
        and pattern.search((ROOT / name).read_text(encoding="utf-8", errors="replace"))
    ]
    assert holders == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("private key", "-----BEGIN EC PRIVATE KEY-----\n" + "MHcCAQEEI" * 6),
        ("key of a cloud", "AKIA" + "Z" * 16),
        ("token of a code host", "ghp_" + "a1B2" * 9),
        ("signed token", "eyJ" + "h" * 30 + ".eyJ" + "b" * 30 + "." + "c" * 43),
        ("password in a URL", "postgresql://trustwatch:correct-horse@db/trustwatch"),
    ],
)
def test_what_is_looked_for_is_found(kind: str, text: str) -> None:
    assert re.search(SECRETS[kind], text)
