"""Descriptions of members, which the client declares with what it shares with the service."""

from trustwatch_client.described import *  # noqa: F403
