"""SIGHUP to a running service: other policy, targets and callers hold at once; a wrong file changes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app

from ..support.alert_receiver import SECRET, Receiver

pytestmark = pytest.mark.integration

TARGET = 'webhooks: [{{name: soc, url: "{url}", secret: {{file: key}}}}]\n'
OTHER = SECRET[:-4] + "AAA="


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_what_is_safe_comes_into_force_without_a_restart(make_service: Any, receiver: Receiver) -> None:
    service = make_service(TARGET.format(url=receiver.url))
    (service.folder / "key").write_text(SECRET)
    service.start()
    whole = service.settings.read_text()

    def metric(name: str) -> float:
        text = service.client.get("/metrics", headers=service.auth()).text
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

    def reload(text: str, outcome: str = "applied") -> None:
        name = f'trustwatch_settings_reloads_total{{outcome="{outcome}"}}'
        before = metric(name)
        service.settings.write_text(text)
        service.process.send_signal(signal.SIGHUP)
        service.wait(lambda: metric(name) > before, 20.0)

    def mode() -> str:
        answer = service.client.get("/v1/agents/nobody/risk", params={"tenant": "calm"}, headers=service.auth())
        return str(answer.json()["mode"])

    def received_under(secret: str) -> None:
        where = ["--url", service.url, "--token", service.token("all")]
        sent = CliRunner().invoke(make_app(), ["alerts", "test", *where, "--json"])
        assert sent.exit_code == 0, sent.output
        headers, body = receiver.got[-1]
        assert Webhook(secret).verify(body, headers)

    assert mode() == "shadow"
    received_under(SECRET)

    (service.folder / "key").write_text(OTHER)
    changed = whole.replace("tenants:\n", "tenants:\n  calm: {mode: enforce}\n", 1) + "retention: {decisions: 77}\n"
    reload(changed)
    assert mode() == "enforce"
    received_under(OTHER)
    assert service.client.get("/readyz").json()["restart_needed"] == ["retention"]

    reload(changed + "risk: {staleness_s: never}\n", "wrong")
    assert mode() == "enforce"
    log = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    assert any("staleness_s" in line.get("error", "") for line in log)
    assert any(line.get("members") == ["retention"] for line in log)

    reload(whole.replace("callers:", "callers:\n  - {name: fresh, client_id: fresh, tenants: [acme-corp]}", 1))
    seen = service.client.get("/v1/agents", params={"tenant": "acme-corp"}, headers=service.auth("fresh"))
    assert seen.status_code == 200, seen.text
    assert mode() == "shadow"
    assert service.process.poll() is None
