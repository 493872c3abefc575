"""The name that `trustwatch_client` had until 0.2. New code imports `trustwatch_client`."""

from trustwatch_client import *  # noqa: F403
from trustwatch_client import __all__ as __all__
