"""What leaves the service: at least once, with an idempotency key, from the store's outbox to configured targets."""

from .base import ALL_LEVELS, DeliveryChannel, DeliveryResult, DeliveryTarget, Notifier
from .dispatcher import Dispatcher
from .policy import DispatchPolicy, backoff_s

__all__ = [
    "ALL_LEVELS",
    "DeliveryChannel",
    "DeliveryResult",
    "DeliveryTarget",
    "DispatchPolicy",
    "Dispatcher",
    "Notifier",
    "backoff_s",
]
