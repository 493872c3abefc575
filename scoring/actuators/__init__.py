"""Actuators: what changes clients at authorization servers after tokens were issued, and what revokes tokens."""

from .admin_api import AdminApi
from .auth import AssertionProof, Auth, ClientCredentials, ClientProof, FixedBearer, NoAuth, SecretProof
from .base import (
    Actuator,
    ActuatorError,
    ActuatorTarget,
    Brought,
    NotConfirmed,
    NotReached,
    Refused,
    UnknownClient,
)
from .desired import ACTION_KIND, Desired, action_row, decided_action, decode_desired, encode_desired
from .figures import BUCKETS_S, ActuationFigures
from .hydra import HydraActuator
from .keycloak import KeycloakActuator
from .notifier import ActuatorNotifier
from .rfc7009 import Burned, RevocationEndpoint, TokenRevoker
from .webhook import WebhookActuator
from .wishes import Wishes

__all__ = [
    "ACTION_KIND",
    "BUCKETS_S",
    "ActuationFigures",
    "Actuator",
    "ActuatorError",
    "ActuatorNotifier",
    "ActuatorTarget",
    "AdminApi",
    "AssertionProof",
    "Auth",
    "Brought",
    "Burned",
    "ClientCredentials",
    "ClientProof",
    "Desired",
    "FixedBearer",
    "HydraActuator",
    "KeycloakActuator",
    "NoAuth",
    "NotConfirmed",
    "NotReached",
    "Refused",
    "RevocationEndpoint",
    "SecretProof",
    "TokenRevoker",
    "UnknownClient",
    "WebhookActuator",
    "Wishes",
    "action_row",
    "decided_action",
    "decode_desired",
    "encode_desired",
]
