"""Models over HTTP: versions, calibration, drift, budget."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.learning import learn_history
from trustwatch.models.persist import save
from trustwatch.scoring.lifecycle.records import DAY_MS, P_EDGES, GroupDay

NOW_MS = 1_764_000_000_000
TODAY = NOW_MS // DAY_MS
SALT = b"a salt of tests!"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, `m1`."""
    dice = random.Random(5)
    events = []
    for number in range(1_500):
        agent = dice.randrange(8)
        events.append(
            {
                "id": f"e{number}", "time": f"2025-11-{1 + number // 100:02}T{number % 100 // 5:02}:00:00Z",
                "tenant": "acme" if agent % 2 else "globex", "type": "tool.call", "outcome": "success",
                "agent": {"id": f"a{agent}", "issuer": "https://as.example", "type": "Payer"},
                "action": dice.choice(["read", "list", "pay"]), "session": f"s{number // 9}",
                "bytes_out": dice.randrange(10, 900),
            }
        )  # fmt: skip
    columns = ColumnEncoder(SALT).encode([decode_event(msgspec.json.encode(one)) for one in events])
    settings = DetectorSettings(trees=20, folds=3)
    folder = tmp_path_factory.mktemp("models") / "model"
    save(folder, learn_history(columns, SALT, "m1", settings), settings, 100, NOW_MS)
    return folder


@pytest.fixture
def site(new_site: Callable[..., Any], model: Path) -> Any:
    """A service with that model, which has looked at it."""
    found = new_site(model_dir=model)
    found.desk.refresh()
    return found


def test_the_installed_model_is_the_first_version(site: Any) -> None:
    """It is there without any training here, and its history says where it came from."""
    page = site.get("/v1/models").json()
    assert (page["in_force"], page["keeper"], page["next_cursor"]) == ("m1", False, None)
    (one,) = page["items"]
    assert (one["version"], one["status"], one["in_force"]) == ("m1", "champion", True)
    assert one["window"]["from_at"] == "2025-11-01T00:00:00.000Z"
    assert one["trained"]["events"] == 1_500

    (entry,) = site.get("/v1/models/history").json()["items"]
    assert (entry["act"], entry["version"]) == ("installed", "m1")
    site.desk.refresh()
    assert len(site.get("/v1/models/history").json()["items"]) == 1


def test_a_version_has_a_falling_calibration_curve(site: Any) -> None:
    """The higher the score, the smaller the p-value; the smallest is one over the events and one."""
    found = site.get("/v1/models/m1", "all").json()
    assert found["on_disk"]
    fleet = found["calibration"][0]
    assert (fleet["tenant"], fleet["agent_type"]) == ("*", "*")
    points = sorted(fleet["points"], key=lambda point: point["score"])
    shares = [point["p_value"] for point in points]
    assert shares == sorted(shares, reverse=True)
    assert len(points) > 10
    assert shares[0] == 1.0
    assert shares[-1] <= 2.0 / (fleet["events"] + 1) + 1e-12
    assert found["observed"] == []


def test_promised_and_observed_are_told_beside_each_other(site: Any) -> None:
    """Shares add up over groups and days; a tenant's reader sees its own alone."""
    even = tuple(10 for _ in P_EDGES)
    odd = (90, *(10 for _ in P_EDGES[1:]))
    site.store.note_days([GroupDay("m1", TODAY, "acme", "Payer", 140, 4, (0, 0, 0), even)])
    site.store.note_days([GroupDay("m1", TODAY, "globex", "Payer", 220, 4, (0, 0, 0), odd)])

    mine = site.get("/v1/models/m1", "gateway").json()["observed"]
    everybody = site.get("/v1/models/m1", "all").json()["observed"]
    assert mine[0] == {"p_value": 0.0001, "share": pytest.approx(10 / 140), "events": 140}
    assert mine[-1]["share"] == 1.0
    assert everybody[0]["share"] == pytest.approx(100 / 360)


def test_a_version_that_is_nowhere_is_not_found(site: Any) -> None:
    """404 as a problem."""
    answer = site.get("/v1/models/other")
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("no_such_model")


def test_drift_shows_what_was_measured(site: Any) -> None:
    """Of the version in force, with the thresholds that hold; days without a measure are left out."""
    said = {"judged": True, "scores": 0.4, "features": {"pace": 0.3}, "drifted": ["scores", "pace"]}
    day = GroupDay("m1", TODAY - 1, "acme", "Payer", 900, 4, (0, 0, 0), (), said)
    others = [msgspec.structs.replace(day, version="m0"), msgspec.structs.replace(day, tenant="globex")]
    site.store.note_days([day, *others, msgspec.structs.replace(day, day=TODAY, drift={})])

    page = site.get("/v1/models/drift", "gateway").json()
    (row,) = page["items"]
    assert row == {"version": "m1", "day": "2025-11-23", "tenant": "acme", "agent_type": "Payer", "events": 900, **said}
    assert page["thresholds"] == {"features": 0.25, "scores": 0.2}
    assert site.get("/v1/models/drift", "gateway", days=1).json()["items"] == []


def test_the_budget_of_a_quiet_fleet_is_kept(site: Any) -> None:
    """Counted agent-days are told as such."""
    site.store.note_days([GroupDay("m1", TODAY, "acme", "Payer", 140, 50, (0, 0, 0), ())])
    page = site.get("/v1/models/budget", "gateway", days=2, level="high").json()
    assert (page["level"], page["budget"]) == ("high", 5.0)
    assert [row["day"] for row in page["items"]] == ["2025-11-23", "2025-11-24"]
    today = page["items"][-1]
    assert (today["agent_days"], today["estimated"], today["expected"]) == (50, False, 0.25)
    assert (today["observed"], today["beyond"]) == (0, False)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m1", "/v1/models/drift", "/v1/models/budget"])
def test_looking_needs_the_scope(site: Any, path: str) -> None:
    """And nothing else does."""
    answer = site.client.get(path, headers=site.auth("gateway", "trust.ingest"))
    assert answer.status_code == 403
    assert site.client.get(path).status_code == 401
