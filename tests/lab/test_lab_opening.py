"""Opening a lab: errors say what to do, secrets stay hidden, and a running service is not affected."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.lab import LabError, LabSession, frames, open_session, replays
from trustwatch.lab.example_data import prepare_example
from trustwatch.scoring.store.sql_store import open_store, sqlite_url


@pytest.mark.integration
def test_where_it_may_be_opened(example: Path) -> None:
    opened = [open_session(where) for where in (example / "settings.yaml", str(example), example / "data")]
    opened.append(open_session(opened[0].settings))
    for session in opened:
        assert len(frames.agents(session)) == 40
        assert session.model().trained.version == "example-1"
        session.close()
    with pytest.raises(LabError, match="no such settings file"):
        open_session(example / "elsewhere")


@pytest.mark.integration
def test_environment_names_the_settings(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTWATCH_SETTINGS", str(example / "settings.yaml"))
    with open_session() as session:
        assert session.settings.data_dir == example / "data"


@pytest.fixture
def empty(tmp_path: Path) -> LabSession:
    """A service that has seen nothing."""
    open_store(sqlite_url(tmp_path / "trustwatch.db")).close()
    return open_session(tmp_path)


def test_an_empty_store_gives_empty_frames(empty: LabSession) -> None:
    with empty:
        for found in (frames.agents(empty), frames.decisions(empty), frames.read(empty, "edges")):
            assert len(found) == 0
        assert {"id", "event_label", "session_label", "class"} <= set(replays.labels(empty).columns)
        assert len(replays.labels(empty)) == 0
        with pytest.raises(LabError, match="widen the window"):
            frames.worst_decision(frames.decisions(empty))
        with pytest.raises(LabError, match="the store is empty"):
            frames.last_hours(empty, 24)
        with pytest.raises(LabError, match="no state of agent"):
            frames.profiles(empty, pd.Series({"tenant": "acme", "issuer": "", "agent_id": "agent-1"}))


def test_what_is_missing_is_said_with_what_to_do(empty: LabSession, tmp_path: Path) -> None:
    """No log, archive, brokers, model, labels, store, decision, agent."""
    (tmp_path / "some.jsonl").write_text("\n")
    nothing = frames.events(empty, source=tmp_path / "some.jsonl")
    asked: list[tuple[Any, str]] = [
        (lambda: frames.events(empty), "no event log, and no archive: name source="),
        (lambda: frames.events(empty, source=tmp_path / "none.jsonl"), "none.jsonl"),
        (lambda: frames.events(empty, source="kafka:"), "names no brokers"),
        (empty.model, "trustwatch train"),
        (lambda: replays.run_backtests(empty), "trustwatch train"),
        (lambda: replays.labels(empty, tmp_path / "none"), "trustwatch simulate --labels"),
        (lambda: replays.train_model(empty, nothing), "no events to learn from"),
        (lambda: frames.reasons(empty, "01NONE"), r"frames\.decisions\(session\)"),
        (lambda: frames.agents(open_session(_folder(tmp_path / "new"))), "make notebooks"),
    ]
    for ask, words in asked:
        with pytest.raises(ConfigError, match=words):
            ask()
    empty.close()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """Not by the lab, its settings, or an error about a database that does not answer."""
    (tmp_path / "password").write_text("hunter2-password")
    (tmp_path / "signing").write_text("whsec_" + "hunter2A" * 4)
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "store: {url: 'postgresql://analyst@127.0.0.1:9/none', password: {file: password}}\n"
        "webhooks: [{name: pager, url: 'https://hooks.example/hunter2-url', secret: {file: signing}}]\n"
    )
    session = open_session(settings)
    with pytest.raises(Unavailable) as error:
        frames.agents(session)
    for told in (repr(session), str(session), repr(session.settings), str(error.value), repr(error.value)):
        assert "hunter2" not in told
    assert "PostgreSQL" in repr(session)


@pytest.mark.integration
def test_a_running_service_notices_nothing(example: Path, tmp_path: Path) -> None:
    """While its log is locked and its store written, the lab reads; it takes no lock and changes no file."""
    settings = prepare_copy(example, tmp_path)
    with (
        closing(EventLog(settings / "data" / "log")) as log,
        closing(open_store(sqlite_url(settings / "data" / "trustwatch.db"))) as store,
    ):
        with open_session(settings) as session:
            evening = "2026-01-13T20:00"
            before = len(frames.events(session, since=evening))
            raw = frames.events(session, since=evening)["raw"].iloc[-1].replace(b'"id":"evt-', b'"id":"new-')
            log.append([Record(RecordKind.EVENT, 12345, 1_768_348_000_000, raw)])
            assert len(frames.events(session, since=evening)) == before, "not durable yet"
            log.sync()
            assert len(frames.events(session, since=evening)) == before + 1
            store.metadata.put("written", "meanwhile")
            assert len(frames.agents(session)) == 40
        store.metadata.put("written", "after")
    touched = {path: path.stat().st_mtime_ns for path in settings.rglob("*") if path.is_file()}
    with open_session(settings) as session:
        (
            frames.agents(session),
            frames.events(session),
            frames.profiles(session, frames.worst_decision(frames.decisions(session))),
            replays.run_backtests(session, **frames.last_hours(session, 1)),
        )
        after = {path: path.stat().st_mtime_ns for path in settings.rglob("*") if path.is_file()}
        with closing(EventLog(settings / "data" / "log")):  # no lock is held that would keep a service from starting
            pass
    changed = {path.name for path in touched.keys() | after.keys() if touched.get(path) != after.get(path)}
    assert changed <= {f"{name}.db-{kind}" for name in ("trustwatch", "events") for kind in ("shm", "wal")}, (
        changed
    )  # SQLite's own, of readers as of writers


def prepare_copy(example: Path, tmp_path: Path) -> Path:
    """The example, to be changed."""
    return Path(shutil.copytree(example, tmp_path / "copy"))


@pytest.mark.integration
def test_the_example_is_made_once_and_never_over_other_things(example: Path, tmp_path: Path) -> None:
    """A second preparation finds it; a folder with other things stays."""
    said: list[str] = []
    assert prepare_example(example, said.append) == example / "settings.yaml"
    assert said == []
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LabError, match="other than an example"):
        prepare_example(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.integration
def test_work_of_the_lab_goes_with_it(example: Path) -> None:
    with open_session(example) as own:
        model = replays.train_model(own, frames.events(own, since="2026-01-12", until="2026-01-13"), trees=5)
        assert model.directory.is_dir()
        assert "learned from 2026-01-12" in repr(model)
    assert not model.directory.exists()
