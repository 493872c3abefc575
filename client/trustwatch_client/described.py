"""Descriptions of members, next to the member: the service's API documents and answers come from them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


def member(description: str, example: Any = None, **wire: Any) -> msgspec.Meta:
    """Describe a member. Answers show the members of a record that have a description.

    Args:
        description: what it means.
        example: a value that it may have, as answers show it; None if its schema gives one.
        wire: `null=True` where 0 or "" is null in answers, `level=True` of the number of a risk level.
    """
    examples = None if example is None else [example]
    return msgspec.Meta(description=description, examples=examples, extra=wire or None)


NULL = msgspec.Meta(extra={"null": True})
"""Marks a member whose 0 or "" is null in answers."""
FLAT = msgspec.Meta(extra={"flat": True})
"""Marks a nested record: answers have its members in its place."""

AgentId = Annotated[str, member("id of the agent, as its issuer knows it", "agent-payment-processor-v2.1")]
TenantName = Annotated[str, member("organization that the agent belongs to", "acme-corp")]
IssuerName = Annotated[str, member("authorization server that knows the agent", "https://as.example")]
AgentType = Annotated[str, member("type of the agent: its peer group within the tenant", "PaymentProcessor")]
PrincipalId = Annotated[str, member("id of the person or service that agents act for", "john.doe@company.com")]
DecisionId = Annotated[str, member("id of the decision that led to this", "01KAW43D1JQ4V1S0Z3Y8M4C2QK")]
EventId = Annotated[str, member("id of the event", "evt-0193")]
Level = Annotated[int, member("risk level", "high", level=True)]
_Unit = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
RiskScore = Annotated[_Unit, member("accumulated evidence, 0 to 1", 0.87)]
Confidence = Annotated[_Unit, member("how much is known of the agent, 0 to 1", 0.94)]
AnomalyScore = Annotated[_Unit, member("how anomalous the last event, or the call, was, 0 to 1", 0.91)]
PValue = Annotated[float, member("share of normal events that are at least as anomalous", 0.0004)]
ModelVersionName = Annotated[str, member("version of the model", "2026-11-24.1")]
PolicyVersion = Annotated[str, member("version of the active token policy", "3")]
REASONS = member("why, the strongest first")
Counterfactual = Annotated[
    str,
    member(
        "what would have led to a lower level; null if no single change would",
        "medium had the network been usual",
        null=True,
    ),
]
MODE = member("mode of the tenant; in `shadow`, no call is held back", "enforce")
CONCERN = member("kind of trouble that the level is about; null below `medium`", "compromise", null=True)
INDICATORS = member("what the events came with that raised the agent: network, address, software, credential, …")
