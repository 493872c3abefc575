"""Finished group joins, kept until their result is taken; kafka-python would throw them away.

`KafkaConsumer.poll` gives up waiting for a join when its time is over, and leaves it running. A join that ends before
the next `poll` is taken for none by that (`BaseCoordinator.join_group_async` of 3.0.12 asks whether the task is done,
not what it brought), and joins once more; if the leader of a group does so, every member must. Members that poll
briefly, or work between polls, drive each other through generations for minutes, and read nothing.

A leader that joins again for its topic's partitions alone has no such need any more once its own join brought them. A
`poll` that comes back later takes nothing then; no heartbeat is sent, the group expels the member, and that never joins
again (`need_rejoin` of 3.0.12 does not look at the join that is under way). Ours reports the need until the result is
taken.

Ours wraps the one method that sends a join: a repeated call returns the result that was not taken yet. It is not a
public interface, so pyproject.toml asks for the one version of kafka-python that it was tested with; with any other it
is disabled. `tests/contract/test_group_source_contract.py` checks nightly, with the newest release, whether it is still
needed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import kafka
import structlog
from kafka import KafkaConsumer
from kafka.coordinator.base import MemberState

PATCHED_VERSION = "3.0.12"

_log = structlog.get_logger(__name__)


def retain_joins(consumer: KafkaConsumer) -> None:
    """Let *consumer*, which has a group, lose no join, if its version is the known one."""
    if kafka.__version__ != PATCHED_VERSION:
        _log.warning("kafka-python may join late", version=kafka.__version__, known=PATCHED_VERSION)
        return
    group: Any = consumer._coordinator
    join: Callable[[], Awaitable[bytes]] = group._do_join_and_sync_async
    lifetime_s = group.config["session_timeout_ms"] / 1000
    assignment, generation, joined_s = b"", None, 0.0

    def is_untaken() -> bool:
        """True if a join ended, its result is not taken yet (else the state were stable), and we are still a member.

        No heartbeat is sent while a finished join waits: after the session time limit the group removes us, and only
        a new join shows it.
        """
        taken = group.state is not MemberState.REBALANCING or group._generation is not generation
        return not taken and time.monotonic() - joined_s < lifetime_s

    async def retained_join() -> bytes:
        """The assignment of the join that ended last and was not taken, else of a new one. On the I/O thread alone."""
        nonlocal assignment, generation, joined_s
        if not is_untaken():
            generation = None
            # Until its result is taken; otherwise a leader's own assignment may show that a join is no longer needed.
            group.request_rejoin()
            assignment = await join()
            generation, joined_s = group._generation, time.monotonic()
        return assignment

    group._do_join_and_sync_async = retained_join
