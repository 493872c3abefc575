"""Backup and restore of the embedded form: what is in it, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.checkout import ROOT
from tests.support.model_history import SALT, SETTINGS, history
from tests.support.old_logs import write_old_log
from tests.support.old_schemas import make_old_sqlite
from tests.support.stored_rows import NOW, agent, commit, name
from trustwatch.api.cli.main import make_app
from trustwatch.api.composition import (
    RESTORING_FOLDER,
    identity_key_path,
    open_model_registry,
    open_service_privacy_key,
    open_service_store,
    open_service_store_reading,
)
from trustwatch.api.file_access import restrict_new_files
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.api.service.backup import (
    DIGESTS_FILE,
    BackupContents,
    BadBackup,
    file_digest,
    list_files,
    restore_backup,
    take_backup,
)
from trustwatch.api.service.serve import serve
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.archive.archive_files import event_folder, file_name, write_positions
from trustwatch.ingest.errors import ConfigError, ModelError
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_database import LogInUse
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.model_directory import copy_model
from trustwatch.models.model_directory import read_manifest as read_model
from trustwatch.models.model_persistence import load_trained_model, save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.store.database import DamagedStore
from trustwatch.scoring.store.sql_store import open_reading_store, sqlite_url

OLD_BACKUP = Path(__file__).with_name("backup_before_tar.tar.gz")
"""Files of a service that kept states of agents in checkpoints, with one of partition 0."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model."""
    path = tmp_path_factory.mktemp("trained") / "model"
    save_trained_model(path, train_model(history(600), SALT, "first", SETTINGS), SETTINGS, 60, NOW)
    return path


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Settings:
    """Settings of a service that has stored two agents of three records, with every key; it does not run."""
    made = Settings(data_dir=tmp_path / "data", model_dir=model)
    with EventLog(made.data_dir / "log") as log:
        log.append([Record(RecordKind.EVENT, number, NOW, b"{}") for number in (1, 2, 3)])
        log.sync()
    with closing(open_service_store(made)) as store:
        commit(store, agents=[agent(name("bot"), 3), agent(name("clerk"), 1)])
    open_model_registry(made).register_installed()
    LocalSigningKey.open(made.data_dir)
    (made.data_dir / "shared-signals").mkdir()
    (made.data_dir / "shared-signals" / "sealing-key").write_bytes(b"k" * 32)
    (made.data_dir / "console-key").write_bytes(b"not to be kept")
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    """Settings of a service on another machine: nothing is there yet."""
    there = tmp_path / "other"
    return Settings(data_dir=there / "data", model_dir=there / "model")


@pytest.fixture
def back_up(settings: Settings, tmp_path: Path) -> Callable[..., BackupContents]:
    """Takes a backup into `backup.tar`."""
    return lambda **options: take_backup(settings, tmp_path / "backup.tar", **options)


@pytest.fixture
def backup(back_up: Callable[..., BackupContents], tmp_path: Path) -> Path:
    """A backup with keys."""
    back_up()
    return tmp_path / "backup.tar"


def names_in(backup: Path) -> set[str]:
    """Files of a backup."""
    with tarfile.open(backup) as tar:
        return set(tar.getnames())


def unpack(backup: Path, folder: Path) -> None:
    """Extract a backup as a person would."""
    folder.mkdir()
    subprocess.run(["tar", "-xf", backup, "-C", folder], check=True)


def repack(backup: Path, change: Callable[[Path], object], *, digests: bool = True) -> None:
    """Change the files of a backup, and its digests with them or not."""
    folder = backup.with_name("unpacked")
    unpack(backup, folder)
    change(folder)
    if digests:
        (folder / DIGESTS_FILE).unlink()
        lines = [f"{file_digest(path)}  {name}\n" for name, path in list_files(folder)]
        (folder / DIGESTS_FILE).write_text("".join(lines))
    with tarfile.open(backup, "w") as tar:
        for name, path in list_files(folder):
            tar.add(path, name)
    shutil.rmtree(folder)


def test_a_backup_says_what_it_holds(back_up: Callable[..., BackupContents], tmp_path: Path) -> None:
    """Positions, model, keys and every file; `sha256sum` checks it, and its owner alone may read it."""
    done = back_up()

    assert (done.offset, done.log_first_offset, done.log_end_offset, done.model) == (1, 0, 3, "first")
    assert done.keys == ["identity-key", "local-jwks.json", "local-key.pem", "shared-signals/sealing-key"]
    names = names_in(tmp_path / "backup.tar")
    assert done.files == len(names) - 1 and DIGESTS_FILE in names
    assert not any("console-key" in name for name in names)
    assert {"data/trustwatch.db", "data/models/first/manifest.json", "model/manifest.json"} < names
    assert stat.S_IMODE((tmp_path / "backup.tar").stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".backup.tar*"))
    subprocess.run(["tar", "-xf", tmp_path / "backup.tar", "--one-top-level=unpacked"], check=True, cwd=tmp_path)
    subprocess.run(["sha256sum", "--quiet", "--check", DIGESTS_FILE], check=True, cwd=tmp_path / "unpacked")


def test_a_backup_with_the_log_of_an_earlier_version_is_restored(elsewhere: Settings, backup: Path) -> None:
    """Its segments are imported; damaged ones are refused, though their digests fit."""
    records = [Record(RecordKind.EVENT, number, NOW, b"{}") for number in (1, 2, 3)]

    def older(folder: Path) -> None:
        shutil.rmtree(folder / "data" / "log")
        write_old_log(folder / "data" / "log", [records[:2], records[2:]])

    def damage(folder: Path) -> None:
        path = folder / "data" / "log" / "00000000000000000000.log"
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    repack(backup, older)
    whole = backup.read_bytes()
    repack(backup, damage)
    with pytest.raises(BadBackup, match="damaged chunk"):
        restore_backup(elsewhere, backup)
    backup.write_bytes(whole)
    assert restore_backup(elsewhere, backup).contents.log_end_offset == 3
    with EventLog(elsewhere.data_dir / "log") as log, LogReader(log.directory) as reader:
        batch = reader.poll(10, 0.0)
        assert batch is not None
        assert batch.records == records


def test_a_restored_service_has_what_was_backed_up(settings: Settings, elsewhere: Settings, backup: Path) -> None:
    """Agents are found under the same key, the log goes on, the model is installed."""
    assert restore_backup(elsewhere, backup).missing_key is None
    assert not (elsewhere.data_dir / RESTORING_FOLDER).exists()

    with closing(open_service_store(elsewhere)) as store, closing(open_service_store(settings)) as original:
        assert store.identities == original.identities
        restored = store.agents.get("acme", "https://as", "bot")
        assert restored is not None
        assert restored == original.agents.get("acme", "https://as", "bot")
        assert store.partitions.position(0) == original.partitions.position(0)
    with EventLog(elsewhere.data_dir / "log") as log:
        assert log.next_offset == 3
    assert read_model(elsewhere.model_dir) == read_model(settings.model_dir)
    assert [model.version for model in open_model_registry(elsewhere).versions()] == ["first"]
    assert LocalSigningKey.open(elsewhere.data_dir).kid == LocalSigningKey.open(settings.data_dir).kid


def modes_below(folder: Path) -> dict[str, int]:
    """Modes of every file, by its path."""
    return {path: stat.S_IMODE(file.stat().st_mode) for path, file in list_files(folder)}


@pytest.mark.parametrize(("access", "file", "folder"), [("owner", 0o600, 0o700), ("group", 0o640, 0o750)])
def test_the_group_reads_what_it_may(
    settings: Settings, elsewhere: Settings, tmp_path: Path, access: str, file: int, folder: int
) -> None:
    """Restored files follow TRUSTWATCH_FILE_ACCESS; secret keys are the owner's alone."""
    before = os.umask(0o022)
    try:
        restrict_new_files({"TRUSTWATCH_FILE_ACCESS": access})
        take_backup(settings, tmp_path / "backup.tar")
        restore_backup(elsewhere, tmp_path / "backup.tar")
    finally:
        os.umask(before)

    modes = modes_below(elsewhere.data_dir)
    secrets = {"identity-key", "local-key.pem", "shared-signals/sealing-key"}
    assert {modes.pop(name) for name in secrets} == {0o600}
    assert {"trustwatch.db", "local-jwks.json"} < modes.keys()
    assert {name for name, mode in modes.items() if mode != file} == set()
    assert stat.S_IMODE((elsewhere.data_dir / "log").stat().st_mode) == folder
    assert set(modes_below(elsewhere.model_dir).values()) == {file}


def test_a_backup_without_keys_says_where_the_identity_key_belongs(
    settings: Settings, elsewhere: Settings, back_up: Callable[..., BackupContents], tmp_path: Path
) -> None:
    """Who keeps keys elsewhere puts the key there before the start; another one is refused as at every start."""
    done = back_up(keys=False)
    names = names_in(tmp_path / "backup.tar")
    assert done.keys == []
    assert not any(name.startswith("data/") and "key" in name.split("/")[1] for name in names)

    restored = restore_backup(elsewhere, tmp_path / "backup.tar")
    assert restored.missing_key == identity_key_path(elsewhere)
    with pytest.raises(ConfigError, match="the identity key of this database is missing"):
        open_service_store(elsewhere)
    restored.missing_key.write_bytes(identity_key_path(settings).read_bytes())
    restored.missing_key.chmod(0o600)
    open_service_store(elsewhere).close()


def test_the_key_that_settings_name_has_to_be_that_of_the_backup(
    elsewhere: Settings, settings: Settings, backup: Path, tmp_path: Path
) -> None:
    """`identity.key_file` elsewhere: it is looked at before anything is put in place."""
    key = tmp_path / "shared-key"
    named = msgspec.structs.replace(elsewhere, identity=msgspec.structs.replace(elsewhere.identity, key_file=key))
    with pytest.raises(ConfigError, match=r"shared-key is missing, and the backup holds `identity-key`"):
        restore_backup(named, backup)
    key.write_text("ab" * 32)
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="not the identity key of this database"):
        restore_backup(named, backup)
    assert not list(named.data_dir.iterdir())
    key.write_bytes(identity_key_path(settings).read_bytes())
    restore_backup(named, backup)


def test_what_is_in_the_way_of_a_restore(settings: Settings, elsewhere: Settings, backup: Path) -> None:
    """A folder that is not empty, one that a service writes to, another model."""
    with pytest.raises(ConfigError, match=r"data_dir: .* is not empty \(console-key, identity-key, "):
        restore_backup(settings, backup)
    with EventLog(settings.data_dir / "log"), pytest.raises(LogInUse, match="is being written by process"):
        restore_backup(settings, backup)
    save_trained_model(elsewhere.model_dir, train_model(history(600, 2), SALT, "second", SETTINGS), SETTINGS, 60, NOW)
    with pytest.raises(ConfigError, match="holds model 'second', the backup is of 'first'"):
        restore_backup(elsewhere, backup)
    assert not list(elsewhere.data_dir.iterdir())


@pytest.mark.parametrize("place", ["model", "place/of/model", "models/first"])
def test_the_model_may_lie_below_data_dir(elsewhere: Settings, backup: Path, place: str) -> None:
    """Beside the database, deeper, and where the installed model is a version of the registry."""
    within = msgspec.structs.replace(elsewhere, model_dir=elsewhere.data_dir / place)
    restore_backup(within, backup)
    assert read_model(within.model_dir)[0].model_version == "first"
    load_trained_model(within.model_dir)
    open_service_store(within).close()


def test_data_dir_itself_is_no_place_for_the_model(elsewhere: Settings, backup: Path) -> None:
    """Said before anything is written."""
    within = msgspec.structs.replace(elsewhere, model_dir=elsewhere.data_dir)
    with pytest.raises(ConfigError, match=r"model_dir: .* is data_dir as well"):
        restore_backup(within, backup)
    assert not list(elsewhere.data_dir.iterdir())


def test_archives_that_know_more_are_refused(elsewhere: Settings, backup: Path, tmp_path: Path) -> None:
    """Their offsets go on behind the log's: what comes next would pass for archived, or lie within an older file."""
    (tmp_path / "archive").mkdir()
    write_positions(tmp_path / "archive", "", {0: 4})
    folder = tmp_path / "vectors" / event_folder(NOW, "acme")
    folder.mkdir(parents=True)
    (folder / file_name("vectors", None, 0, 4)).write_bytes(b"")
    archive = elsewhere.archive
    for given, part in (
        (msgspec.structs.replace(archive, directory=tmp_path / "archive"), "directory"),
        (msgspec.structs.replace(archive, vectors=tmp_path / "vectors"), "vectors"),
    ):
        with pytest.raises(ConfigError, match=rf"archive.{part}: .* goes up to offset 4, the log of the backup to 3"):
            restore_backup(msgspec.structs.replace(elsewhere, archive=given), backup)
    (folder / file_name("vectors", None, 0, 4)).rename(folder / file_name("vectors", None, 0, 3))
    restore_backup(msgspec.structs.replace(elsewhere, archive=given), backup)


@pytest.mark.parametrize("damaged", ["data/trustwatch.db", "data/log/events.db", "model/manifest.json"])
def test_a_damaged_file_is_named_and_nothing_is_restored(elsewhere: Settings, backup: Path, damaged: str) -> None:
    """A byte that changed, a file that is too short, one that is gone, one that is new."""
    whole = backup.read_bytes()

    def flip(folder: Path) -> None:
        content = (folder / damaged).read_bytes()
        (folder / damaged).write_bytes(bytes([content[0] ^ 1]) + content[1:])

    def cut(folder: Path) -> None:
        (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-1])

    for change, named in (
        (flip, damaged),
        (cut, damaged),
        (lambda folder: (folder / damaged).unlink(), damaged),
        (lambda folder: (folder / "data/one-more").write_bytes(b"1"), "data/one-more"),
    ):
        backup.write_bytes(whole)
        repack(backup, change, digests=False)
        with pytest.raises(BadBackup, match=f"{named}: its SHA-256 is not the one in the backup"):
            restore_backup(elsewhere, backup)
    assert not list(elsewhere.data_dir.iterdir())
    assert not elsewhere.model_dir.exists()


def test_a_tar_that_is_cut_off_is_refused(elsewhere: Settings, backup: Path) -> None:
    """Wherever a copy of it ended."""
    whole = backup.read_bytes()
    for size in (0, 100, 700, len(whole) // 3, len(whole) // 2, len(whole) - 20_000):
        backup.write_bytes(whole[:size])
        with pytest.raises(BadBackup):
            restore_backup(elsewhere, backup)
    assert not list(elsewhere.data_dir.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data/trustwatch.db", tarfile.SYMTYPE),
        ("data/trustwatch.db", tarfile.LNKTYPE),
        ("data/trustwatch.db", tarfile.FIFOTYPE),
        ("data/trustwatch.db", tarfile.CHRTYPE),
        ("data/trustwatch.db", tarfile.GNUTYPE_SPARSE),
        ("data/../../../out", tarfile.REGTYPE),
    ],
)
def test_a_tar_leads_nowhere_else(elsewhere: Settings, backup: Path, name: str, kind: bytes) -> None:
    """No link, pipe or device, and no file outside of `data_dir`."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/dev/zero"
    with tarfile.open(backup, "a") as tar:
        tar.addfile(member)
    with pytest.raises(BadBackup):
        restore_backup(elsewhere, backup)
    assert not list(elsewhere.data_dir.iterdir())
    assert not list(backup.parent.rglob("out"))


KILLED_RESTORES = """
import os, sys
from pathlib import Path
from trustwatch.api.service import backup as restore
from trustwatch.api.settings.root import Settings

folder, backup = Path(sys.argv[1]), Path(sys.argv[2])
rename = Path.rename

def killed(number):
    left = [number]
    def counted(path, target):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return rename(path, target)
    Path.rename = counted
    restore.restore_backup(Settings(data_dir=folder / str(number) / "data", model_dir=folder / "model"), backup)
    os._exit(0)

status = 1
number = 0
while status:
    child = os.fork()
    if not child:
        try:
            killed(number)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status)
    number += 1
    if status == 1:
        break
"""
"""Restores in children that end before the first move of a file, before the second and so on, until none is left."""


def let_in(settings: Settings, command: str) -> None:
    """Run a command that lets somebody in, with a settings file of that `data_dir`."""
    file = settings.data_dir.with_name("settings.yaml")
    file.write_text(f"data_dir: {settings.data_dir}\nconsole: {{enabled: true, development_login: true}}\n")
    CliRunner().invoke(make_app(), [command, "--settings", str(file)], catch_exceptions=False)


def test_nothing_opens_what_a_killed_restore_left(settings: Settings, backup: Path, tmp_path: Path) -> None:
    """At each step: no start, no command, no restore over it; no key is made. Once emptied, the restore succeeds."""
    killed = tmp_path / "killed"
    whole = restore_backup(Settings(data_dir=tmp_path / "whole", model_dir=killed / "model"), backup)
    assert whole.missing_key is None
    moves = {name.split("/")[1] for name in names_in(backup) if name.startswith("data/")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RESTORES, str(killed), str(backup)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["9"] * len(moves) + ["0"], done.stderr
    openers: tuple[Callable[[Settings], object], ...] = (
        lambda at: asyncio.run(serve(at, None)),
        open_service_store,
        open_service_store_reading,
        open_service_privacy_key,
        lambda at: let_in(at, "token"),
        lambda at: let_in(at, "console-link"),
        lambda at: take_backup(at, tmp_path / "never.tar"),
        lambda at: restore_backup(at, backup),
    )
    for number in range(len(moves)):
        left = Settings(data_dir=killed / str(number) / "data", model_dir=settings.model_dir)
        found = sorted(path.name for path in left.data_dir.iterdir())
        assert len(found) == number + 1  # what was moved, and `.restoring`
        for opens in openers:
            with pytest.raises(ConfigError, match=r"is not finished.*empty the folder and restore again"):
                opens(left)
        assert sorted(path.name for path in left.data_dir.iterdir()) == found
    shutil.rmtree(left.data_dir)
    restore_backup(left, backup)
    open_service_store(left).close()


def test_a_disk_that_refuses_midway_leaves_nothing_to_open(
    elsewhere: Settings, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: what was moved stays closed."""
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path.name == "local-key.pem":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="No space left"):
        restore_backup(elsewhere, backup)
    assert (elsewhere.data_dir / "identity-key").is_file()
    with pytest.raises(ConfigError, match="is not finished"):
        open_service_store(elsewhere)


def test_foreign_files_are_no_backups(elsewhere: Settings, backup: Path, tmp_path: Path) -> None:
    """Every error names the file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "letter").write_text("mine" * 1_000)
    repack(backup, lambda folder: (folder / DIGESTS_FILE).unlink(), digests=False)
    for source, named in (
        (tmp_path / "nothing", "nothing: is missing"),
        (tmp_path / "folder", "folder.*not a backup of ours"),
        (tmp_path / "letter", "letter: .*not a backup of ours"),
        (backup, "SHA256SUMS: is missing"),
    ):
        with pytest.raises(BadBackup, match=named):
            restore_backup(elsewhere, source)
    assert not list(elsewhere.data_dir.iterdir())


@pytest.fixture
def old_backup(tmp_path: Path) -> Path:
    """The files of a service of before the states of agents were in rows."""
    unpack(OLD_BACKUP, tmp_path / "old")
    return tmp_path / "old" / "backup"


def test_database_and_log_have_to_fit_together(
    settings: Settings, elsewhere: Settings, tmp_path: Path, back_up: Callable[..., BackupContents]
) -> None:
    """A database beyond the end of its log: no service would start on it."""
    with closing(open_service_store(settings)) as store:
        for _ in range(3):
            commit(store)
    back_up()
    with pytest.raises(BadBackup, match="database at offset 4, log from 0 to 3"):
        restore_backup(elsewhere, tmp_path / "backup.tar")
    assert not list(elsewhere.data_dir.iterdir())


def test_a_backup_of_an_older_program_is_brought_up_to_date(elsewhere: Settings, backup: Path) -> None:
    """Its tables are those of this program once it is restored; the identity key is then made for it."""

    def age(folder: Path) -> None:
        database = folder / "data" / "trustwatch.db"
        database.unlink()
        make_old_sqlite(database, "0008")

    repack(backup, age)
    restore_backup(elsewhere, backup)
    with closing(open_reading_store(sqlite_url(elsewhere.data_dir / "trustwatch.db"))) as store:
        assert not store.has_identity_key()
    open_service_store(elsewhere).close()


def test_a_backup_that_fails_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    """A damaged database is no backup; a file that exists is not touched."""
    letter = tmp_path / "backup.tar"
    letter.write_text("mine")
    for taken in (letter, settings.data_dir):
        with pytest.raises(ConfigError, match="exists already"):
            take_backup(settings, taken)
    assert letter.read_text() == "mine"
    before = sorted(tmp_path.iterdir())
    database = settings.data_dir / "trustwatch.db"
    content = bytearray(database.read_bytes())
    content[8_192:] = b"\xff" * (len(content) - 8_192)
    database.write_bytes(content)
    with pytest.raises(DamagedStore):
        take_backup(settings, tmp_path / "second.tar")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("installed", [True, False])
def test_a_damaged_array_is_no_backup(settings: Settings, tmp_path: Path, installed: bool) -> None:
    """Of the installed model, and of a version: the file is named where it lies."""
    own = msgspec.structs.replace(settings, model_dir=tmp_path / "own")
    shutil.copytree(settings.model_dir, own.model_dir)
    folder = own.model_dir if installed else own.data_dir / "models" / "first"
    array = sorted((folder / "detector").iterdir())[0]
    content = array.read_bytes()
    array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=rf"{array}: expected sha256 .* it was changed"):
        take_backup(own, tmp_path / "backup.tar")
    assert not (tmp_path / "backup.tar").exists()


def test_the_model_that_was_copied_is_named(
    settings: Settings, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator replaces the installed model meanwhile."""
    own = msgspec.structs.replace(settings, model_dir=tmp_path / "own")
    shutil.copytree(settings.model_dir, own.model_dir)

    def copy_late(source: Path, target: Path) -> None:
        if source == own.model_dir:
            second = train_model(history(600, 2), SALT, "second", SETTINGS)
            save_trained_model(own.model_dir, second, SETTINGS, 60, NOW)
        copy_model(source, target)

    monkeypatch.setattr("trustwatch.api.service.backup.copy_model", copy_late)
    contents = take_backup(own, tmp_path / "backup.tar")
    assert (contents.model, contents.model_digest) == ("second", read_model(own.model_dir)[1])
    restore_backup(elsewhere, tmp_path / "backup.tar")
    restore_backup(msgspec.structs.replace(elsewhere, data_dir=tmp_path / "again"), tmp_path / "backup.tar")


def test_a_name_that_no_backup_may_have_is_told_while_it_can_be_mended(settings: Settings, tmp_path: Path) -> None:
    """`restore` would refuse the whole backup."""
    (settings.data_dir / "shared-signals" / "old\nkey").write_bytes(b"k")
    with pytest.raises(ConfigError, match=r"old\\nkey' in data_dir: .* rename it"):
        take_backup(settings, tmp_path / "backup.tar")
    assert not (tmp_path / "backup.tar").exists()


def test_brokers_and_servers_have_back_ups_of_their_own(settings: Settings, tmp_path: Path) -> None:
    """Both commands say what to do there."""
    store = msgspec.structs.replace(settings.store, url="postgresql://trustwatch@db/trustwatch")
    with pytest.raises(ConfigError, match="pg_dump"):
        take_backup(msgspec.structs.replace(settings, store=store), tmp_path / "backup.tar")


def test_the_commands(settings: Settings, tmp_path: Path) -> None:
    """One JSON document each, or words; a refused restore ends with the reason."""
    run, app = CliRunner().invoke, make_app()
    for folder in ("", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "settings.yaml").write_text(f"data_dir: data\nmodel_dir: {settings.model_dir}\n")
    first, second = (str(tmp_path / folder / "settings.yaml") for folder in ("", "other"))

    done = json.loads(run(app, ["backup", str(tmp_path / "b"), "--settings", first, "--json"]).stdout)
    assert (done["offset"], done["log_end_offset"], done["files"]) == (1, 3, len(names_in(tmp_path / "b")) - 1)
    spoken = run(app, ["restore", str(tmp_path / "b"), "--settings", second])
    assert spoken.exit_code == 0, spoken.output
    assert "database at offset 1, log from 0 to 3, model first" in spoken.stderr
    refused = run(app, ["restore", str(tmp_path / "b"), "--settings", second])
    assert isinstance(refused.exception, ConfigError)
    kept = run(app, ["backup", str(tmp_path / "c"), "--settings", second, "--without-keys"])
    assert "not in it: settings" in kept.stderr
    assert "it holds keys" not in kept.stderr


def test_a_checkpoint_that_is_not_in_the_folder_is_asked_for(
    elsewhere: Settings, old_backup: Path, tmp_path: Path
) -> None:
    """A start changes nothing until the file of before is there, whole."""
    elsewhere.data_dir.mkdir(parents=True)
    data, kept = elsewhere.data_dir, tmp_path / "kept"
    shutil.copytree(old_backup / "data", data, dirs_exist_ok=True)
    (data / "checkpoints").rename(kept)
    with pytest.raises(ConfigError, match="the newest states of some agents are in the checkpoint partition-000000/"):
        open_service_store(elsewhere)
    with closing(sqlite3.connect(data / "trustwatch.db")) as database:
        assert database.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
    shutil.copytree(kept, data / "checkpoints")
    (file,) = (path for path in (data / "checkpoints").rglob("*.states"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match="missing or damaged"):
        open_service_store(elsewhere)
    file.write_bytes(whole)
    with closing(open_service_store(elsewhere)) as store:
        row = store.agents.get("acme", "https://as", "bot")
        assert row is not None and row.level == 2
    assert not (data / "checkpoints").exists()
