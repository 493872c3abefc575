"""For gateways and agents: look risk up, send audit events, enforce answers. Imports nothing of the service.

`trustwatch_client.assertion` signs client assertions; `trustwatch_client.a2a` and `trustwatch_client.mcp` need the
extras `a2a` and `mcp`. None of them is imported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # else loaded at the first use: the service reads the declaration of the event alone
    from .access_tokens import ClientCredentials, ClientSecret
    from .argument_origins import ArgumentOrigins, OriginLimits, TracedCall
    from .asgi import TrustMiddleware
    from .call_verdicts import AsyncCallVerdicts, CallVerdicts
    from .caller import Caller, caller_from_claims
    from .event_sender import AsyncEventSender, EventSender
    from .events import AuditEvent, Call, EventArgument, fingerprint
    from .guard import Guard, Ruling, judge
    from .origin_keys import OriginKeys
    from .origin_tracker import OriginTracker
    from .refusal import Challenge
    from .risk_answers import Answer, CallVerdict, Indicator, Question, Reason, TokenPolicy
    from .settings import RiskSettings, SenderSettings
    from .step_up_approvals import Approvals, shown_by_token
    from .trust_client import AsyncTrustClient, TrustClient
    from .trust_errors import ContentRefused, OriginKeyUnavailable, TokenFailed, TrustError, TrustUnavailable

__all__ = [
    "Answer",
    "Approvals",
    "ArgumentOrigins",
    "AsyncCallVerdicts",
    "AsyncEventSender",
    "AsyncTrustClient",
    "AuditEvent",
    "Call",
    "CallVerdict",
    "CallVerdicts",
    "Caller",
    "Challenge",
    "ClientCredentials",
    "ClientSecret",
    "ContentRefused",
    "EventArgument",
    "EventSender",
    "Guard",
    "Indicator",
    "OriginKeyUnavailable",
    "OriginKeys",
    "OriginLimits",
    "OriginTracker",
    "Question",
    "Reason",
    "RiskSettings",
    "Ruling",
    "SenderSettings",
    "TokenFailed",
    "TokenPolicy",
    "TracedCall",
    "TrustClient",
    "TrustError",
    "TrustMiddleware",
    "TrustUnavailable",
    "caller_from_claims",
    "fingerprint",
    "judge",
    "shown_by_token",
]

_MODULES = (
    "events",
    "settings",
    "trust_errors",
    "access_tokens",
    "argument_origins",
    "asgi",
    "call_verdicts",
    "caller",
    "event_sender",
    "guard",
    "origin_keys",
    "origin_tracker",
    "refusal",
    "risk_answers",
    "step_up_approvals",
    "trust_client",
)


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` from its module."""
    if name in __all__:
        for module in _MODULES:
            loaded = import_module(f".{module}", __name__)
            if hasattr(loaded, name):
                globals()[name] = getattr(loaded, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
