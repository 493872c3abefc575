"""What leaves the service: at least once, with an idempotency key, from the store's outbox to configured targets."""

from .base import ALL_LEVELS, Channel, DeliveryResult, Notifier, Target
from .dispatcher import Dispatcher
from .policy import DispatchPolicy, backoff_s

__all__ = [
    "ALL_LEVELS",
    "Channel",
    "DeliveryResult",
    "DispatchPolicy",
    "Dispatcher",
    "Notifier",
    "Target",
    "backoff_s",
]
