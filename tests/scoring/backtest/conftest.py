"""A saved model and a history with everything that could make shares disagree."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trustwatch.models.model_persistence import save_trained_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, model: Any, make: Any) -> Path:
    """The model of the tests, on disk."""
    path = tmp_path_factory.mktemp("models") / "model"
    save_trained_model(path, model, make.SETTINGS, 100, make.START_MS)
    return path


def quiet_end(make: Any) -> dict[str, Any]:
    """An event weeks later: time passes for all the others by ticks alone."""
    return dict(make.event(99_999, 0, make.START_MS + 40 * 86_400_000), id="last")


@pytest.fixture(scope="session")
def messy(tmp_path_factory: pytest.TempPathFactory, make: Any) -> Path:
    """Odd events, late ones, repeated ones (one under the id of another agent's), and records that are no events."""
    events = make.stream(8, 3_000, agents=20, odd=0.1, start_ms=make.START_MS + 3 * 86_400_000)
    for at, kind in ((3, "token.request"), (5, "token.refresh"), (7, "api.call")):
        for made in events[at::9]:
            made["type"] = kind
            made["scopes"] = {"requested": ["payments:read", "payments:write"]}
            made["credential"]["token_lifetime_s"] = 600
    text = [json.dumps(made) for made in events]
    text[700] = '{"time": "never"}'
    text[701] = "no JSON"
    text.insert(900, text[899])
    stranger = dict(events[1200], agent={"id": "somebody-else", "type": "Reader"})
    text.insert(1300, json.dumps(stranger))
    text.append(json.dumps(quiet_end(make)))
    path = tmp_path_factory.mktemp("history") / "messy.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(text).encode()))
    return path
