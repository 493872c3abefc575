"""`scripts/services start hydra --token-hook` gives Hydra what the hook asks for; nothing is started here."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from scripts.service_stack import Hydra
from scripts.service_stack.__main__ import HOOK_HEADER, main
from trustwatch.api.access.hooks.hook_server import SECRET_HEADER

from ..support.quick_starts import consecutive_ports

SECRET = "a secret of thirty-two characters"
URL = "http://127.0.0.1:8420/hooks/hydra"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Configurations that Hydra would have been started with."""
    configurations: list[dict[str, Any]] = []
    monkeypatch.setattr(Hydra, "_dsn", lambda self: "postgres://none")
    monkeypatch.setattr(Hydra, "start", lambda self: configurations.append(json.loads(self._files()["hydra.json"])))
    return configurations


def start(folder: Path, *options: object) -> int:
    return main(["--state", str(folder), "start", "hydra", *map(str, options)])


def test_the_hook_is_given_its_secret(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    """In the header that the settings of a hook have by default; a later start without options keeps both."""
    (tmp_path / "hook.key").write_text(SECRET + "\n")

    codes = [start(tmp_path, "--token-hook", URL, "--hook-secret", tmp_path / "hook.key"), start(tmp_path)]

    auth = {"type": "api_key", "config": {"in": "header", "name": HOOK_HEADER, "value": SECRET}}
    assert codes == [0, 0]
    assert [one["oauth2"]["token_hook"] for one in started] == [{"url": URL, "auth": auth}] * 2
    assert [one["oauth2"]["allowed_top_level_claims"] for one in started] == [["risk_level", "policy_version"]] * 2
    assert HOOK_HEADER.lower().encode() == SECRET_HEADER


def test_another_header_or_hook_keeps_the_rest(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    (tmp_path / "hook.key").write_text(SECRET)
    start(tmp_path, "--token-hook", URL, "--hook-secret", tmp_path / "hook.key")
    start(tmp_path, "--hook-secret", tmp_path / "hook.key", "--hook-header", "X-Other")
    start(tmp_path, "--token-hook", URL + "-2")

    hooks = [one["oauth2"]["token_hook"] for one in started]
    assert [hook["auth"]["config"]["name"] for hook in hooks] == [HOOK_HEADER, "X-Other", "X-Other"]
    assert [hook["url"] for hook in hooks] == [URL, URL, URL + "-2"]


def test_a_hook_without_its_secret_is_refused(
    tmp_path: Path, started: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """So is an empty file, and one that is not there."""
    (tmp_path / "empty").write_text("\n")

    codes = [start(tmp_path, "--token-hook", URL, *more) for more in ((), ("--hook-secret", tmp_path / "empty"))]
    codes.append(start(tmp_path, "--token-hook", URL, "--hook-secret", tmp_path / "nowhere"))

    assert (codes, started) == ([1, 1, 1], [])
    told = capsys.readouterr().err
    assert "go together" in told and "is empty" in told and "nowhere" in told


def test_the_admin_port_follows_the_public_one(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    """As Hydra's own 4444 and 4445, so that settings can name both before it starts; unless somebody has that port."""
    first, second, third = map(int, consecutive_ports(3))

    start(tmp_path / "a", "--port", first)
    with socket.create_server(("127.0.0.1", third)):
        start(tmp_path / "b", "--port", second)

    ports = [(one["serve"]["public"]["port"], one["serve"]["admin"]["port"]) for one in started]
    assert ports[0] == (first, second)
    assert ports[1][0] == second and ports[1][1] != third
