"""docs/ingest-topics.md: the settings load, and its record becomes its event through the role itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.settings.loading import load_settings

from ...support.checkout import DOCS, ROOT
from ...support.format_samples import LINES

PAGE = (DOCS / "ingest-topics.md").read_text()
OIDC_PROVIDER = ROOT / "examples" / "oidc-provider.yaml"


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_does_what_the_page_says(tmp_path: Path) -> None:
    """Settings, record and event of the page belong together, to the byte of its id."""
    path = tmp_path / "settings.yaml"
    path.write_text(block("example"))
    (topic,) = load_settings(path, {}).kafka.topics

    parcels, skipped = topic.parser()(block("record").strip().encode(), {})
    record = Admission(AgentRegistry(())).admit(parcels[0], SourceBinding(topic), 1_800_000_000_000)

    assert skipped == 0 and len(parcels) == 1
    assert json.loads(record.payload) == json.loads(block("event"))
    assert b"secret" not in record.payload


def test_the_mapping_of_a_programmed_server_reads_what_one_wrote(tmp_path: Path) -> None:
    """Lines of node-oidc-provider, as `scripts/service_stack` makes it write them, through the example."""
    path = tmp_path / "settings.yaml"
    path.write_text("issuers: [{issuer: i, audiences: [a], jwks_uri: 'https://i/jwks'}]\n" + OIDC_PROVIDER.read_text())
    (caller,) = load_settings(path, {}).callers
    lines = (LINES / "oidc_provider.jsonl").read_bytes().splitlines()

    found = [caller.parser()(line, {}) for line in lines]

    parcels = [parcel for parsed in found for parcel in parsed.records]
    events = [json.loads(parcel.to_native()) for parcel in parcels if parcel.to_native is not None]
    assert (len(events), sum(parsed.skipped for parsed in found)) == (len(lines) - 2, 2)
    assert {(event["type"], event["outcome"], event.get("error")) for event in events} == {
        ("client.register", "success", None),
        ("token.request", "success", None),
        ("token.exchange", "success", None),
        ("token.exchange", "denied", "invalid_scope"),
        ("token.exchange", "denied", "invalid_grant"),
        ("token.request", "denied", "revoked_by_trustwatch"),
        ("token.introspect", "success", None),
        ("token.introspect", "error", "unsupported_token_type"),
        ("token.revoke", "success", None),
        ("token.request", "error", "invalid_target"),
        ("token.request", "denied", "invalid_scope"),
    }
    exchange = next(event for event in events if event["type"] == "token.exchange")
    assert exchange["delegation"][0] == exchange["agent"]["id"] and len(exchange["delegation"]) == 2
