"""Asking again while a service does not answer."""

import pytest

from trustwatch.ingest.errors import CorruptLog, Unavailable, retry_until_available


class Service:
    """Fails as often as it is told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def ask(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def test_the_answer_is_asked_for_until_it_comes():
    waits: list[str] = []
    answer = retry_until_available(
        Service(Unavailable("a"), Unavailable("b")).ask, lambda error: waits.append(str(error))
    )

    assert (answer, waits) == ("answer", ["a", "b"])


def test_what_is_no_outage_is_not_asked_again():
    with pytest.raises(CorruptLog):
        retry_until_available(Service(CorruptLog("damaged")).ask, lambda _: pytest.fail("waited"))
