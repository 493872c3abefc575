"""The name that `trustwatch_client.a2a` had until 0.2."""

from trustwatch_client.a2a import *  # noqa: F403
