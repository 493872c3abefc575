"""The real application with its hooks, asked in this process; the pipeline is played by the test."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.access.call_evaluation import LiveCallScorer
from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.api.settings.enforcement_settings import HookSettings
from trustwatch.ingest.settings import Secret
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.scoring.policy.book import PolicyBook, PolicyTable
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ....support.access_testbed import AS, AccessTestbed

SECRET = "a secret of 24 letters!!"
BODIES = Path(__file__).parent / "bodies"
CALLERS = (
    CallerSettings(name="as", client_id="as", tenants=("acme",), issuers=(AS,)),
    CallerSettings(name="all", client_id="all", tenants=("*",), issuers=("*",)),
    CallerSettings(name="other", client_id="other", tenants=("globex",), issuers=("*",)),
)


def hook(kind: str, **given: Any) -> HookSettings:
    own: dict[str, Any] = {} if kind == "authzen" else {"tenant": "acme", "issuer": AS, "secret": Secret(SECRET)}
    return HookSettings(**{"name": kind, "kind": kind, **own, **given})


class HookTestbed(AccessTestbed):
    def __init__(
        self,
        folder: Path,
        database: Path,
        hooks: tuple[HookSettings, ...],
        book: PolicyBook,
        callers: tuple[CallerSettings, ...] = (),
    ) -> None:
        self.calls = LiveCallScorer(ModelRegistry(folder / "models", folder / "model"), {})
        super().__init__(folder, database, book, (self.calls,), callers=(*CALLERS, *callers), hooks=hooks)

    def level(self, level: RiskLevel | str, agent: str = "bot", agent_type: str = "Payer") -> None:
        self.agent(agent, RiskLevel[level.upper()] if isinstance(level, str) else level, agent_type)

    def send(self, method: str, path: str, content: bytes = b"", **headers: str) -> httpx2.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.runner.run(self.http.request(method, path, content=content, headers=given))

    def ask(self, name: str, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if name == "zitadel":
            headers.setdefault("zitadel_signature", self.signature(content))
        return self.send("POST", f"/hooks/{name}", content, **{"x_trustwatch_key": SECRET, **headers})

    def signature(self, content: bytes, at_s: float | None = None, secret: str = SECRET) -> str:
        at = str(int(self.now if at_s is None else at_s))
        return f"t={at},v1=" + hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()

    def auth(self, client: str = "as", *scopes: str) -> dict[str, str]:
        return super().auth(client, *scopes)

    def evaluate(self, body: Any, *, several: bool = True, client: str = "as", **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = "/access/v1/evaluations" if several else "/access/v1/evaluation"
        sent = {"content_type": "application/json", **self.auth(client), **headers}
        return self.send("POST", path, content, **sent)

    def events(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in event.items() if name != "id"} for event in super().events()]

    def metric(self, line: str) -> float:
        """Value of a metric with its labels, as written in the exposition; 0 where there is none."""
        lines = self.send("GET", "/metrics", **self.auth("all")).text.splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{line} ")), 0.0)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_store(sqlite_url(path)).close()
    return path


@pytest.fixture
def make_desk(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., HookTestbed]]:
    """Makes applications: with hooks (a kind, or settings), a mode, policies by level, and further callers."""
    made: list[HookTestbed] = []

    def make(
        *hooks: HookSettings | str,
        mode: str = "enforce",
        policies: Any = None,
        book: Any = None,
        callers: tuple[CallerSettings, ...] = (),
    ) -> HookTestbed:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        database = folder / "trustwatch.db"
        shutil.copyfile(empty_database, database)
        settings = tuple(hook(one) if isinstance(one, str) else one for one in hooks)
        book = book or PolicyBook(PolicyTable(policies, "3"), modes={"acme": mode})
        made.append(HookTestbed(folder, database, settings, book, callers))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture(scope="session")
def body() -> Callable[[str], Any]:
    return lambda name: json.loads((BODIES / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def make_hook() -> Callable[..., HookSettings]:
    return hook
