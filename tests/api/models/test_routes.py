"""Models over HTTP: versions, calibration, drift, budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.models.service import write_to_each_partition
from trustwatch.api.service.serve import promote_ready_challenger
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.source import RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.models import model_persistence
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.learning.promotion import (
    AlertAgreement,
    LabelledAttackStats,
    ShadowComparison,
    ShadowModelStats,
)
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.models import P_VALUE_EDGES, ModelSwitch, PeerGroupDay, SwitchModel, decode_model_switch

from ...support.stored_rows import commit, decision, name, said, step

NOW_MS = 1_764_000_000_000
TODAY = NOW_MS // DAY_MS
SALT = b"a salt of tests!"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dice = random.Random(5)
    events = []
    for number in range(1_500):
        agent = dice.randrange(8)
        events.append(
            {
                "id": f"e{number}",
                "time": f"2025-11-{1 + number // 100:02}T{number % 100 // 5:02}:00:00Z",
                "tenant": "acme" if agent % 2 else "globex",
                "type": "tool.call",
                "outcome": "success",
                "agent": {"id": f"a{agent}", "issuer": "https://as.example", "type": "Payer"},
                "action": dice.choice(["read", "list", "pay"]),
                "session": f"s{number // 9}",
                "bytes_out": dice.randrange(10, 900),
            }
        )
    columns = ColumnEncoder(SALT).encode([decode_event(msgspec.json.encode(one)) for one in events])
    settings = DetectorSettings(trees=20, folds=3)
    folder = tmp_path_factory.mktemp("models") / "model"
    save_trained_model(folder, train_model(columns, SALT, "m1", settings), settings, 100, NOW_MS)
    return folder


@pytest.fixture
def site(new_site: Callable[..., Any], model: Path) -> Any:
    """A service with that model, which has looked at it."""
    found = new_site(model_dir=model)
    found.desk.refresh()
    return found


def test_the_installed_model_is_the_first_version(site: Any) -> None:
    """It is there without any training here, and its history says where it came from."""
    page = site.get("/v1/models", "all").json()
    assert (page["in_force"], page["keeper"], page["next_cursor"]) == ("m1", False, None)
    (one,) = page["items"]
    assert (one["version"], one["status"], one["in_force"]) == ("m1", "champion", True)
    assert one["window"]["from_at"] == "2025-11-01T00:00:00.000Z"
    assert one["trained"]["events"] == 1_500

    (entry,) = site.get("/v1/models/history", "all").json()["items"]
    assert (entry["act"], entry["version"]) == ("installed", "m1")
    site.desk.refresh()
    assert len(site.get("/v1/models/history", "all").json()["items"]) == 1


@pytest.mark.parametrize("path", ["/v1/models/train", "/v1/models/rollback", "/v1/models/m1/promote"])
def test_orders_reach_every_tenant_and_are_for_those_who_speak_for_all(site: Any, path: str) -> None:
    """One tenant's admin does not choose the model of the others."""
    answer = site.client.post(path, json={"why": "mine"}, headers=site.auth("gateway"))

    assert answer.status_code == 403
    assert answer.json()["type"].endswith("all_tenants_needed")
    assert site.get("/v1/models/history", "gateway").status_code == 403


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
    assert found["calibration_known"] == []  # it was not rehearsed: all agents are judged by the one curve


def test_promised_and_observed_are_told_beside_each_other(site: Any) -> None:
    """Shares add up over groups and days; a tenant's reader sees its own alone."""
    even = tuple(10 for _ in P_VALUE_EDGES)
    odd = (90, *(10 for _ in P_VALUE_EDGES[1:]))
    site.store.models.save_days([PeerGroupDay("m1", TODAY, "acme", "Payer", 140, 4, (0, 0, 0), even)])
    site.store.models.save_days([PeerGroupDay("m1", TODAY, "globex", "Payer", 220, 4, (0, 0, 0), odd)])

    mine = site.get("/v1/models/m1", "gateway").json()["observed"]
    everybody = site.get("/v1/models/m1", "all").json()["observed"]
    assert mine[0] == {"p_value": 0.0001, "share": pytest.approx(10 / 140), "events": 140}
    assert mine[-1]["share"] == 1.0
    assert everybody[0]["share"] == pytest.approx(100 / 360)


def test_drift_shows_what_was_measured(site: Any) -> None:
    """Of the version in force, with the thresholds that hold; days without a measure are left out."""
    said = {"judged": True, "scores": 0.4, "features": {"pace": 0.3}, "drifted": ["scores", "pace"]}
    day = PeerGroupDay("m1", TODAY - 1, "acme", "Payer", 900, 4, (0, 0, 0), (), said)
    others = [msgspec.structs.replace(day, version="m0"), msgspec.structs.replace(day, tenant="globex")]
    site.store.models.save_days([day, *others, msgspec.structs.replace(day, day=TODAY, drift={})])

    page = site.get("/v1/models/drift", "gateway").json()
    (row,) = page["items"]
    assert row == {"version": "m1", "day": "2025-11-23", "tenant": "acme", "agent_type": "Payer", "events": 900, **said}
    assert page["thresholds"] == {"features": 0.5, "scores": 0.2}
    assert site.get("/v1/models/drift", "gateway", days=1).json()["items"] == []


def test_the_budget_of_a_quiet_fleet_is_kept(site: Any) -> None:
    """Counted agent-days are told as such."""
    site.store.models.save_days([PeerGroupDay("m1", TODAY, "acme", "Payer", 140, 50, (0, 0, 0), ())])
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


@pytest.fixture
def second(site: Any, model: Path) -> str:
    """A version of the same salt that somebody put on the shelf."""
    return put(site, model, "m2", SALT)


def put(site: Any, model: Path, version: str, salt: bytes) -> str:
    """A model by another name on the shelf."""
    trained = model_persistence.load_trained_model(model)
    folder = site.settings.data_dir / "models" / version
    save_trained_model(
        folder, replace(trained, version=version, salt=salt), DetectorSettings(trees=20, folds=3), 100, NOW_MS + 5
    )
    return version


def order(site: Any, path: str, client: str = "all", **body: Any) -> Any:
    site.clock.now += 1
    return site.client.post(f"/v1/models/{path}", json=body, headers=site.auth(client))


def switch(site: Any, version: str, number: int) -> None:
    """What the pipeline does with a command: it writes where the version came into force."""
    at = site.store.partitions.position(0)
    at = site.store.partitions.claim(0) if at.epoch == 0 else at
    digest, installed = (read_manifest(site.desk.registry.find_directory(name))[1] for name in (version, "m1"))
    row = ModelSwitch(0, at.epoch, number, version, digest, installed, NOW_MS + number)
    site.store.commit(Commit(at, Position(0, at.epoch, number), [], [], [], [], switches=[row]))
    site.clock.now += 1
    site.desk.refresh()


def commands(site: Any) -> list[SwitchModel]:
    return [found for one in site.logged(RecordKind.CONTROL) if (found := decode_model_switch(one.payload)) is not None]


def figures(**values: Any) -> dict[str, Any]:
    """A shadow run in which the challenger raises fewer false alerts."""
    none = {"medium": 0, "high": 0, "critical": 0}
    old = ShadowModelStats("m1", none, none, {level: 0.0 for level in none}, 0, None)
    made = ShadowComparison(old, msgspec.structs.replace(old, version="m2"), 5_000, 9_000, 5, 900)
    made = msgspec.structs.replace(made, agreement=AlertAgreement(3, 900, 12, 2))
    return msgspec.to_builtins(msgspec.structs.replace(made, **values))


def test_a_version_without_figures_is_promoted_by_force_alone(site: Any, second: str) -> None:
    """And by force only with a reason; what was overruled is in the history."""
    answer = order(site, f"{second}/promote", why="looks good")
    assert answer.status_code == 409
    assert answer.json()["reasons"] == ["it has not run in shadow: nothing is known of it"]
    assert order(site, f"{second}/promote", force=True).status_code == 409
    assert commands(site) == []

    answer = order(site, f"{second}/promote", why="the old one is broken", force=True)
    assert (answer.status_code, answer.json()) == (202, {"version": "m2", "by": "all", "status": "ordered"})
    (command,) = commands(site)
    assert (command.version, command.by, command.why) == ("m2", "all", "the old one is broken")
    assert site.get("/v1/models").json()["in_force"] == "m1"
    entry = site.get("/v1/models/history", "all").json()["items"][0]
    assert (entry["act"], entry["detail"]["forced"]) == ("promoted", True)


def test_answers_name_what_is_in_force(site: Any, second: str) -> None:
    """From the moment the pipeline has passed the command; the champion before retires, and comes back by roll-back."""
    assert site.get("/v1/agents/x/risk").json()["model_version"] == "m1"
    order(site, f"{second}/promote", why="better", force=True)
    switch(site, "m1", 1)
    switch(site, "m2", 9)
    assert site.get("/v1/agents/x/risk").json()["model_version"] == "m2"
    states = {one["version"]: (one["status"], one["in_force"]) for one in site.get("/v1/models").json()["items"]}
    assert states == {"m1": ("retired", False), "m2": ("champion", True)}
    assert [one["offset"] for one in site.get("/v1/models/m2").json()["switches"]] == [9]

    answer = order(site, "rollback", why="it floods us")
    assert answer.json()["version"] == "m1"
    switch(site, "m1", 20)
    states = {one["version"]: one["status"] for one in site.get("/v1/models").json()["items"]}
    assert states == {"m1": "champion", "m2": "rejected"}
    acts = [(one["act"], one["version"]) for one in site.get("/v1/models/history", "all").json()["items"]]
    assert acts[:3] == [("switched", "m1"), ("rolled_back", "m1"), ("switched", "m2")]
    assert sorted(acts[3:]) == [("installed", "m1"), ("promoted", "m2"), ("trained", "m2")]


def test_figures_of_all_tenants_are_for_those_who_see_all(site: Any, second: str) -> None:
    """How many agents others have, what they were alerted of and who ordered what is no other tenant's business."""
    order(site, f"{second}/promote")
    site.store.models.save_shadow_metrics("m2", figures(), NOW_MS)
    ours, mine = (site.get("/v1/models/m2", client).json() for client in ("all", "gateway"))

    assert all(ours[name] for name in ("trained", "figures", "judgement", "history"))
    assert [mine[name] for name in ("trained", "figures", "judgement", "history")] == [{}, {}, None, []]
    assert [curve["tenant"] for curve in mine["calibration"]][:1] == ["*"]  # which its agents are judged by
    listed = {client: site.get("/v1/models", client).json()["items"] for client in ("all", "gateway")}
    assert [one["trained"].get("events") for one in listed["all"]][-1] == 1_500
    assert all(one["trained"] == one["figures"] == {} for one in listed["gateway"])
    assert [one["version"] for one in listed["gateway"]] == [one["version"] for one in listed["all"]]


def test_a_measured_gain_promotes(site: Any, second: str) -> None:
    """Fewer agent-days with an alert, by more than chance; no force is needed."""
    order(site, f"{second}/promote")  # it is known from now on
    site.store.models.save_shadow_metrics("m2", figures(), NOW_MS)
    found = site.get("/v1/models/m2", "all").json()
    assert found["judgement"]["reasons"] == []
    assert "12 agent-days" in found["judgement"]["gains"][0]

    assert order(site, f"{second}/promote").status_code == 202
    assert len(commands(site)) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"agent_days": 99}, "99 agent-days"),
        ({"agreement": AlertAgreement(0, 900, 6, 4)}, "no measured gain"),
        ({"labels": LabelledAttackStats(3, 1, 1, 1)}, "misses 1 labelled"),
    ],
)
def test_no_gain_is_no_promotion(site: Any, second: str, values: dict[str, Any], reason: str) -> None:
    """Too little was seen, chance explains it, or an attack is lost."""
    order(site, f"{second}/promote")
    site.store.models.save_shadow_metrics("m2", figures(**values), NOW_MS)
    answer = order(site, f"{second}/promote", why="please")
    assert answer.status_code == 409
    assert any(reason in told for told in answer.json()["reasons"])


def test_another_salt_can_not_be_forced(site: Any, model: Path) -> None:
    """What is known of agents could not be carried over."""
    put(site, model, "salted", b"another")
    answer = order(site, "salted/promote", why="please", force=True)
    assert answer.status_code == 409
    assert "another salt" in answer.json()["detail"]
    assert commands(site) == []


def test_orders_need_the_administrators_scope(site: Any) -> None:
    """Looking does not suffice."""
    for path in ("train", "rollback", "m1/promote"):
        headers = site.auth("all", "trust.score:read", "trust.feedback")
        assert site.client.post(f"/v1/models/{path}", json={}, headers=headers).status_code == 403


def test_nothing_before_is_nothing_to_go_back_to(site: Any) -> None:
    """409 with that reason; and without a keeper nobody trains."""
    assert "nothing to roll back" in order(site, "rollback").json()["detail"]
    assert "trustwatch train" in order(site, "train").json()["detail"]
    assert order(site, "other/promote").status_code == site.get("/v1/models/other").status_code == 404


def test_the_chart_knows_what_people_said(site: Any) -> None:
    """A true positive does not count against the budget."""
    who, times = name("bot"), {"decided_ms": NOW_MS, "event_time_ms": NOW_MS}
    rows = [decision(number, who, agent_type="Payer", **times) for number in range(4)]
    commit(site.store, decisions=rows)
    for number, verdict in ((1, "true_positive"), (2, "false_positive")):
        given = said(number, verdict=verdict, status="noted", decision_id=f"D{number}", agent=who)
        site.store.feedback.add(given, step(given, "noted"))

    (row,) = site.get("/v1/models/budget", days=1).json()["items"]
    assert (row["observed"], row["true_positive"], row["false_positive"], row["unmarked"]) == (4, 1, 1, 2)
    assert row["run_observed"] == 3
    assert row["beyond"]


def test_a_proved_challenger_is_promoted_by_the_keeper(site: Any, second: str) -> None:
    """The desk judges once more: what the stored figures do not show is not promoted."""
    order(site, f"{second}/promote")
    site.wait(promote_ready_challenger(site.desk, second))
    assert commands(site) == []

    site.store.models.save_shadow_metrics("m2", figures(), NOW_MS)
    site.wait(promote_ready_challenger(site.desk, second))
    (command,) = commands(site)
    assert (command.version, command.by) == ("m2", "keeper")


class Topic:
    """A writer of a topic with three partitions, which notes what goes where."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def partitions(self, _topic: str) -> int:
        return 3

    def send(self, _topic: str, _key: bytes, value: bytes, *, partition: int, **_: Any) -> None:
        self.sent.append((partition, value))

    def flush(self, _timeout_s: float) -> None:
        pass


def test_every_partition_gets_the_command_once() -> None:
    """Each switches at an offset of its own."""
    topic = Topic()

    async def tell() -> None:
        log = GroupCommit(TopicCommitLog(topic, "trustwatch.events"))  # type: ignore[arg-type]
        await write_to_each_partition(log, lambda: 5, b"switch")
        await log.close()

    asyncio.run(tell())
    assert sorted(topic.sent) == [(0, b"switch"), (1, b"switch"), (2, b"switch")]
