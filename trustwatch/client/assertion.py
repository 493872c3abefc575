"""The name that `trustwatch_client.assertion` had until 0.2."""

from trustwatch_client.assertion import *  # noqa: F403
