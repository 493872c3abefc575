"""Client for gateways and agents: query risk, send audit events, enforce answers. Imports nothing of the service.

`trustwatch_client.assertion` signs client assertions; `trustwatch_client.a2a` and `trustwatch_client.mcp` need the
extras `a2a` and `mcp`. None of them is imported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # else loaded at the first use: the service reads only the declaration of the event
    from .argument_origins import ArgumentOrigins, OriginLimits, TracedCall
    from .asgi import TrustMiddleware
    from .call_verdicts import Approvals, AsyncCallVerdicts, CallVerdicts
    from .event_sender import AsyncEventSender, EventSender, SenderSettings
    from .events import AuditEvent, Call, Caller, EventArgument, caller_from_claims, fingerprint
    from .guard import Challenge, Guard, Ruling, judge, shown_by_token
    from .origin_tracker import OriginKeys, OriginTracker
    from .risk_answers import Answer, CallVerdict, Indicator, Question, Reason, TokenPolicy
    from .service_connection import ClientCredentials, ClientSecret
    from .trust_client import AsyncTrustClient, RiskSettings, TrustClient
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
    "trust_errors",
    "argument_origins",
    "asgi",
    "call_verdicts",
    "event_sender",
    "guard",
    "origin_tracker",
    "risk_answers",
    "service_connection",
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
