"""The name that `trustwatch_client.mcp` had until 0.2."""

from trustwatch_client.mcp import *  # noqa: F403
