"""The identity key of a deployment: made once, asked for at every start, renewed on purpose."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.stored_rows import NOW, commit
from trustwatch.api.cli.main import make_app
from trustwatch.api.composition import identity_key_path, open_service_store
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentEdge

NAME = ("acme", "https://as.example", "bot")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a database of their own; `settings.yaml` beside it says the same."""
    (tmp_path / "settings.yaml").write_text("data_dir: data\n")
    return Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")


def keyed(settings: Settings) -> IdentityHasher:
    with closing(open_service_store(settings)) as store:
        if not store.edges.find([NAME], outgoing=True, kinds={"called"}):
            commit(store, edges=[AgentEdge(*NAME[:2], "called", NAME[2], "ledger", NOW, NOW)])
        return store.identities


def test_the_first_start_makes_the_key_and_every_other_one_asks_for_it(settings: Settings) -> None:
    first, path = keyed(settings), identity_key_path(settings)

    assert first.is_keyed
    assert keyed(settings) == first
    kept = path.read_bytes()
    path.write_text("ab" * 32)
    with pytest.raises(ConfigError, match="not the identity key of this database"):
        open_service_store(settings)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{path.name}: the identity key of this database is missing"):
        open_service_store(settings)
    assert not path.exists()
    path.write_bytes(kept)
    path.chmod(0o600)
    assert keyed(settings) == first


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "known to others"])
def test_a_key_is_renewed(settings: Settings, tmp_path: Path, lost: bool) -> None:
    first, path = keyed(settings), identity_key_path(settings)
    old = path.read_bytes()
    if lost:
        path.unlink()
    arguments = ["identities", "renew", "--settings", str(tmp_path / "settings.yaml"), "--json"]
    runner, app = CliRunner(), make_app()

    refused = runner.invoke(app, arguments, input="n\n")
    assert refused.exit_code == 1
    done = runner.invoke(app, [*arguments, "--all-stopped"])
    assert done.exit_code == 0, done.output
    assert msgspec.json.decode(done.stdout) == {"changed_rows": 1, "key_file": str(path)}
    with closing(open_service_store(settings)) as store:
        assert store.identities != first
        assert [edge.target for edge in store.edges.find([NAME], outgoing=True, kinds={"called"})] == ["ledger"]
    before = path.with_name("identity-key.before")
    assert not before.exists() if lost else before.read_bytes() == old


def test_a_renewal_that_was_killed_goes_on(settings: Settings, tmp_path: Path) -> None:
    keyed(settings)
    path = identity_key_path(settings)
    made = path.with_name("identity-key.new")
    made.write_text("cd" * 32)
    made.chmod(0o600)
    with closing(open_service_store(settings)) as store:
        store.use_identities(IdentityHasher(bytes.fromhex("cd" * 32)), renew=True)
    arguments = ["identities", "renew", "--settings", str(tmp_path / "settings.yaml"), "--all-stopped"]

    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    assert path.read_text() == "cd" * 32
    assert not made.exists()
    keyed(settings)
