"""What we write is closed to other users, and what stands open is closed or told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trustwatch.api.data_at_rest import close_existing_data
from trustwatch.api.file_access import closed_bits, restrict_new_files
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.errors import ConfigError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def umask_of_the_tests() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data, model, archive = (tmp_path / name for name in ("data", "model", "archive"))
    for folder in (data / "log", model, archive):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    data.chmod(0o755)
    for name in ("trustwatch.db", "trustwatch.db-wal", "foreign.txt"):
        (data / name).write_text("persons")
        (data / name).chmod(0o644)
    return Settings(data_dir=data, model_dir=model, archive=ArchiveSettings(directory=archive))


@pytest.mark.parametrize(
    ("environ", "file", "folder"),
    [
        ({}, 0o600, 0o700),
        ({"TRUSTWATCH_FILE_ACCESS": ""}, 0o600, 0o700),
        ({"TRUSTWATCH_FILE_ACCESS": "group"}, 0o640, 0o750),
    ],
)
def test_new_files_are_closed_whatever_the_umask_of_the_shell(
    tmp_path: Path, environ: dict[str, str], file: int, folder: int
) -> None:
    restrict_new_files(environ)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert (mode_of(tmp_path / "file"), mode_of(tmp_path / "folder")) == (file, folder)


def test_another_word_is_refused_with_what_it_may_be() -> None:
    with pytest.raises(ConfigError, match="TRUSTWATCH_FILE_ACCESS: expected `owner` or `group`, found 'all'"):
        closed_bits({"TRUSTWATCH_FILE_ACCESS": "all"})


def test_what_an_earlier_version_left_open_is_closed_and_told(settings: Settings) -> None:
    assert settings.archive.directory is not None
    with capture_logs() as logs:
        close_existing_data(settings, {})
    for path in (settings.data_dir, settings.data_dir / "log", settings.model_dir, settings.archive.directory):
        assert mode_of(path) == 0o700
    assert mode_of(settings.data_dir / "trustwatch.db") == mode_of(settings.data_dir / "trustwatch.db-wal") == 0o600
    assert mode_of(settings.data_dir / "foreign.txt") == 0o644  # not ours to change; the folder keeps others out
    told = {line["path"]: line for line in logs}
    assert told[str(settings.data_dir)]["was"] == "0755"
    assert "TRUSTWATCH_FILE_ACCESS=group" in told[str(settings.data_dir)]["advice"]
    with capture_logs() as logs:
        close_existing_data(settings, {})
    assert logs == []


def test_group_access_leaves_the_group_what_it_has(settings: Settings) -> None:
    close_existing_data(settings, {"TRUSTWATCH_FILE_ACCESS": "group"})
    assert mode_of(settings.data_dir) == 0o750
    assert mode_of(settings.data_dir / "trustwatch.db") == 0o640


def test_a_folder_of_everybody_is_left_as_it_is_and_what_is_ours_in_it_is_closed(settings: Settings) -> None:
    settings.data_dir.chmod(0o1777)  # as /tmp
    with capture_logs() as logs:
        close_existing_data(settings, {})
    assert mode_of(settings.data_dir) == 0o1777
    assert mode_of(settings.data_dir / "trustwatch.db") == 0o600
    assert any(line["event"] == "other users may look into a folder that is not ours alone" for line in logs)


def test_a_link_is_not_followed_out_of_the_folder(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "elsewhere").chmod(0o644)
    (settings.data_dir / "trustwatch.db-shm").symlink_to(tmp_path / "elsewhere")
    close_existing_data(settings, {})
    assert mode_of(tmp_path / "elsewhere") == 0o644


def test_what_can_not_be_closed_is_told_with_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "chmod", refuse)
    with capture_logs() as logs:
        close_existing_data(settings, {})
    assert any(line.get("advice") == f"as its owner: chmod go= {settings.data_dir}" for line in logs)


def test_nothing_there_yet_is_nothing_to_close(tmp_path: Path) -> None:
    close_existing_data(Settings(data_dir=tmp_path / "none", model_dir=tmp_path / "no-model"), {})
