"""Frames have the columns that the product declares, times as timestamps and levels as ordered categories."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from trustwatch.ingest.events import NativeEvent
from trustwatch.lab import LabError, LabSession, LabWarning, frames, open_session, replays
from trustwatch.scoring.backtest.result import BacktestSide, LevelAlerts, RevocationReport
from trustwatch.scoring.store.read_scope import UnscopedRead
from trustwatch.scoring.store.sql_schema import AGENTS, METADATA

pytestmark = pytest.mark.integration


def test_each_table_of_the_store_is_a_frame(session: LabSession) -> None:
    """All columns but blobs, by their names; of times without the unit."""
    for name, table in METADATA.tables.items():
        found = frames.read(session, name)
        declared = {column.name.removesuffix("_ms") for column in table.c if str(column.type) != "BLOB"}
        assert declared == {column.removesuffix("_at") if column == "risk_at" else column for column in found}, name
    with pytest.raises(LabError, match="no table 'people'; there are"):
        frames.read(session, "people")


def test_a_select_is_read_and_held_to_the_sessions_tenants(session: LabSession) -> None:
    both = select(AGENTS.c.tenant, AGENTS.c.level)
    assert set(frames.read(session, both)["tenant"]) == {"acme-corp", "globex"}
    with open_session(session.settings, tenants=["globex"]) as ours:
        with pytest.raises(UnscopedRead):
            frames.read(ours, both)
        assert set(frames.read(ours, both.where(AGENTS.c.tenant == "globex"))["tenant"]) == {"globex"}
        for name in ("agents", "edges", "decisions"):
            assert set(frames.read(ours, name)["tenant"]) <= {"globex"}


def test_events_have_the_members_of_events(session: LabSession, day: dict[str, Any]) -> None:
    events = frames.events(session, **day)
    members = {field.name for field in msgspec.structs.fields(NativeEvent)}
    inner = {"agent", "principal", "resource", "scopes", "client", "credential"}
    assert members - inner <= set(events.columns)
    assert {"agent_id", "issuer", "agent_type", "resource_target", "scopes_requested", "client_ip"} <= set(
        events.columns
    )
    assert str(events["time"].dtype).endswith(", UTC]")
    first = events.iloc[0]
    raw = msgspec.json.decode(first["raw"])
    assert (raw["id"], raw["agent"]["id"], raw["action"]) == (first["id"], first["agent_id"], first["action"])
    assert list(frames.events(session, "no-such-agent").columns) == list(events.columns)


def test_results_of_back_tests_have_their_declared_columns(session: LabSession, day: dict[str, Any]) -> None:
    """Also if nothing is in them, so that notebooks run on a quiet day."""
    quiet = replays.run_backtests(session, since="2026-01-13T23:59:58Z", until="2026-01-13T23:59:59Z")
    for outcomes in (replays.run_backtests(session, **day), quiet):
        revoked = replays.rows(outcomes, "policy.revoked")
        assert list(revoked.columns) == ["model", "factor", "policy", *RevocationReport.__struct_fields__]
        assert str(revoked["at"].dtype).endswith(", UTC]")
        assert revoked["level"].cat.ordered
        assert list(replays.rows(outcomes, "alerts").columns[3:]) == list(LevelAlerts.__struct_fields__)
        assert {"x", "y"} <= set(replays.rows(outcomes, "evaluation.by_session.roc").columns)
        (side,) = outcomes.values()
        assert isinstance(side, BacktestSide)
    assert replays.rows(quiet, "policy.revoked").empty


def test_frames_are_bounded_and_say_so(session: LabSession, day: dict[str, Any]) -> None:
    everything = frames.events(session, **day)
    with pytest.warns(LabWarning, match="raise limit"):
        last = frames.events(session, **day, limit=100)
    assert last["id"].tolist() == everything["id"].tolist()[-100:]
    assert len(frames.events(session, **day, limit=len(everything))) == len(everything)
    with pytest.warns(LabWarning, match="scored"):
        scored = replays.scores(session, session.model(), **day, limit=150)
    assert scored["id"].tolist() == replays.scores(session, session.model(), **day)["id"].tolist()[-150:]
    with pytest.warns(LabWarning, match="3 are here"):
        assert len(frames.agents(session, limit=3)) == 3
    with pytest.warns(LabWarning, match="2 are here"):
        newest = frames.decisions(session, limit=2)
    assert newest["decision_id"].tolist() == frames.decisions(session)["decision_id"].tolist()[-2:]
