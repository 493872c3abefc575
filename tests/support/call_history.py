"""A history of agents that tell where their arguments came from, the model of it, and a call that is asked about."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel

SALT = b"salt of the calls"
TENANT, ISSUER = "acme", "https://as.example"
NEW_VALUE, KNOWN_VALUE = "f" * 12, f"{1:012x}"
CALL_SETTINGS = DetectorSettings(trees=10, folds=3)


def call_history(start_ms: int, pairs: int = 700, agents: int = 16, *, keys: bool = False) -> list[dict[str, Any]]:
    """Events: an agent reads a mail, then sends something to an address out of it; addresses recur.

    With *keys* each agent has a key of its own, and all are in one network.
    """
    dice, events = random.Random(7), []
    for pair in range(pairs):
        agent, at_ms = dice.randrange(agents), start_ms + pair * 300_000
        session = {"session": f"s-{pair}", "task": "desk"}
        argument = {"name": "to", "origin": "tool", "from": 0, "from_action": "read_mail"}
        value = {"arguments": [{**argument, "hash": f"{dice.randrange(1, 40):012x}"}], "untrusted_result": False}
        mail = {"action": "read_mail", "effect": "read", "arguments": [], "untrusted_result": True}
        send = {"action": "send", "effect": "write", "resource": {"target": f"host-{dice.randrange(5)}"}, **value}
        session |= {"credential": agent_key(agent), "client": {"asn": 64496}} if keys else {}
        events += [_event(agent, at_ms, session | mail), _event(agent, at_ms + 5_000, session | send)]
    return events


def agent_key(agent: int | str) -> dict[str, str]:
    """The credential of an agent, by its number; of another name it is one that nobody knows."""
    return {"method": "private_key_jwt", "thumbprint": f"key-of-{agent}"}


def _event(agent: int, at_ms: int, members: dict[str, Any]) -> dict[str, Any]:
    return {
        "time": format_rfc3339(at_ms),
        "type": "tool.call",
        "tenant": TENANT,
        "agent": {"id": f"agent-{agent}", "issuer": ISSUER, "type": "Clerk"},
        "outcome": "success",
        **members,
    }


@cache
def call_model(before_ms: int, *, keys: bool = False) -> TrainedModel:
    """The model of a history that ends before a time, UTC milliseconds."""
    events = call_history(before_ms - 3 * 86_400_000, keys=keys)
    columns = ColumnEncoder(SALT).encode([decode_event(json.dumps(event).encode()) for event in events])
    return train_model(columns, SALT, "calls", CALL_SETTINGS)


def call(value: str | None = NEW_VALUE, **members: Any) -> dict[str, Any]:
    """The body of a question: something is sent to an address out of a mail."""
    argument = {"name": "to", "origin": "tool", "from": 0, "from_action": "read_mail", "untrusted": True}
    told = {} if value is None else {"arguments": [{**argument, "hash": value}]}
    resource = {"resource": {"target": "host-1"}}
    return {"action": "send", "effect": "write", "task": "desk", **resource, **told, **members}
