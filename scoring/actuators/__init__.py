"""Actuators: what changes clients at authorization servers after tokens were issued, and what revokes tokens."""

from .admin_api import AdminApi
from .auth import (
    ClientAuthenticator,
    ClientCredentialsAuthenticator,
    ClientSecretAuthenticator,
    NoAuthenticator,
    PrivateKeyJwtAuthenticator,
    RequestAuthenticator,
    StaticTokenAuthenticator,
)
from .base import (
    ActuationNotConfirmed,
    ActuationResult,
    Actuator,
    ActuatorAccessDenied,
    ActuatorError,
    ActuatorTarget,
    ActuatorUnavailable,
    UnknownClient,
)
from .desired import (
    ACTION_ROW_KIND,
    DesiredState,
    build_action_row,
    build_decision_action_row,
    decode_desired_state,
    encode_desired_state,
)
from .figures import BUCKETS_S, ActuationMetrics
from .hydra import HydraActuator
from .keycloak import KeycloakActuator
from .notifier import ActuatorNotifier
from .rfc7009 import RevocationEndpoint, RevocationResult, TokenRevoker
from .webhook import WebhookActuator
from .wishes import DesiredStateResolver

__all__ = [
    "ACTION_ROW_KIND",
    "BUCKETS_S",
    "ActuationMetrics",
    "ActuationNotConfirmed",
    "ActuationResult",
    "Actuator",
    "ActuatorAccessDenied",
    "ActuatorError",
    "ActuatorNotifier",
    "ActuatorTarget",
    "ActuatorUnavailable",
    "AdminApi",
    "ClientAuthenticator",
    "ClientCredentialsAuthenticator",
    "ClientSecretAuthenticator",
    "DesiredState",
    "DesiredStateResolver",
    "HydraActuator",
    "KeycloakActuator",
    "NoAuthenticator",
    "PrivateKeyJwtAuthenticator",
    "RequestAuthenticator",
    "RevocationEndpoint",
    "RevocationResult",
    "StaticTokenAuthenticator",
    "TokenRevoker",
    "UnknownClient",
    "WebhookActuator",
    "build_action_row",
    "build_decision_action_row",
    "decode_desired_state",
    "encode_desired_state",
]
