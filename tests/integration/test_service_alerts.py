"""A running service tries its targets out: the command, the API, the outbox, its dispatcher and real receivers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.scoring.delivery.notifiers.alert_formats import ALERT_FORMATS

from ..support.alert_receiver import ROUTING_KEY, SECRET, TOKEN, Receiver

pytestmark = pytest.mark.integration

HOOKS = """\
webhooks:
  - {{name: soc, url: "{url}", secret: {{file: soc.secret}}}}
  - {{name: chat, format: slack, url: {{file: chat.url}}}}
  - {{name: pager, format: pagerduty, url: "{url}", routing_key: {{file: pager.key}}}}
  - {{name: siem, format: ocsf, url: "{url}", secret: {{file: soc.secret}}}}
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_running_service_tries_its_targets_out(make_service: Any, receiver: Receiver) -> None:
    """Each target takes the test in its own format; what fails is shown; no secret gets into log, list or database."""
    service = make_service(HOOKS.format(url=receiver.url))
    secrets = {"soc.secret": SECRET, "chat.url": f"{receiver.url}/services/{TOKEN}", "pager.key": ROUTING_KEY}
    for name, secret in secrets.items():
        (service.folder / name).write_text(secret)
    service.start()

    def command(*arguments: str) -> Any:
        where = ["--url", service.url, "--token", service.token("all")]
        return CliRunner().invoke(make_app(), ["alerts", *arguments, *where, "--json"])

    sent = command("test")
    assert sent.exit_code == 0, sent.output
    rows = [json.loads(line) for line in sent.stdout.splitlines()]
    assert [(row["target"], row["status"], row["attempts"]) for row in rows] == [
        (name, "delivered", 1) for name in ("soc", "chat", "pager", "siem")
    ]
    signed = [(headers, body) for headers, body in receiver.got if "webhook-id" in headers]
    assert len(receiver.got) == len(ALERT_FORMATS) and len(signed) == 2
    assert all(Webhook(SECRET).verify(body, headers) for headers, body in signed)

    receiver.answers = [(404, {}, f"no_service /services/{TOKEN}".encode())]
    refused = command("test", "--target", "chat")
    assert refused.exit_code == 1
    listed = command("list", "--status", "failed").stdout
    assert json.loads(listed)["why"].startswith("HTTP 404: no_service")
    files = [path for path in service.folder.rglob("*") if path.is_file() and path.name not in secrets]
    kept = b"".join(path.read_bytes() for path in files)
    assert b"no_service" in kept
    for secret in (SECRET, TOKEN, ROUTING_KEY):
        assert secret not in listed + refused.output
        assert secret.encode() not in kept
