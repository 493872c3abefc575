"""Verifications of our streams: what comes back is what was asked for, once, or it is refused, counted and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.http.auth.signing import BrokenSeal, SecretSealer
from trustwatch.api.shared_signals.transmitter_context import KEY_FOLDER, VerificationStates
from trustwatch.ingest.formats.received_signals import VERIFICATION

from ...support.signal_reception import Reception, refused

OURS = {"format": "opaque", "id": "stream-1"}


@pytest.fixture
def states(reception: Reception) -> VerificationStates:
    """As another process of the deployment makes them."""
    return VerificationStates(Path(reception.site.settings.data_dir) / KEY_FOLDER, reception.site.clock)


def verify(reception: Reception, number: int, state: Any, sub_id: Any = OURS) -> Any:
    return reception.send(VERIFICATION, number, sub_id=sub_id, members={"state": state})


def test_a_verification_that_was_asked_for(reception: Reception, states: VerificationStates) -> None:
    """Taken, and again where it comes again; an answer to it under another name is one too many."""
    state = states.make("idp", "stream-1")
    assert reception.site.wait(reception.receiver.has_verified("idp", state)) is False
    assert verify(reception, 1, state).status_code == verify(reception, 1, state).status_code == 202
    assert refused(verify(reception, 2, state)) == "invalid_state"
    assert reception.site.wait(reception.receiver.has_verified("idp", state)) is True
    assert reception.outcomes == {"verified": 1, "duplicate": 1, "invalid_state": 1}
    assert reception.site.events() == []


def test_a_verification_behind_a_queue(reception: Reception, states: VerificationStates) -> None:
    """It may come days after it was asked for, as long as SETs count."""
    state = states.make("idp", "stream-1")
    reception.site.clock.now += 2 * 86_400
    assert verify(reception, 1, state).status_code == 202
    assert reception.outcomes == {"verified": 1}


def test_verifications_that_nobody_asked_for(
    reception: Reception, states: VerificationStates, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another transmitter or stream, made up, of any type, too old; none of it stands in the log."""
    state = states.make("idp", "stream-1")
    stranger = VerificationStates(Path(reception.site.settings.data_dir) / "elsewhere", reception.site.clock)
    wrong: list[tuple[Any, Any]] = [
        (stranger.make("idp", "stream-1"), OURS),
        (states.make("other", "stream-1"), OURS),
        (state, {"format": "opaque", "id": "stream-2"}),
        (state, {"format": "opaque", "id": "\ud800"}),
        (state, {"format": "opaque", "id": 7}),
        (state, {"format": "email", "email": "a@b.example"}),
        *((value, OURS) for value in ("made-up", "", "\u00e4", 7, ["x"], {}, state[:-8], "A" * 10_000)),
    ]
    for number, (value, sub_id) in enumerate(wrong):
        assert refused(verify(reception, number, value, sub_id)) == "invalid_state", value
    reception.site.clock.now += 300_000
    assert refused(verify(reception, 99, state)) == "invalid_state"
    assert reception.outcomes == {"invalid_state": len(wrong) + 1}
    told = capsys.readouterr().out
    assert "invalid_state" in told
    assert state[:40] not in told


def test_a_transmitter_may_verify_by_itself(reception: Reception) -> None:
    """Without a state (SSF 1.0, section 8.1.4): noted, no error."""
    assert reception.send(VERIFICATION, 1, sub_id=OURS).status_code == 202
    assert verify(reception, 2, None).status_code == 202
    assert reception.outcomes == {"stream": 2}


def test_what_was_sealed_for_something_else_is_no_state(reception: Reception, states: VerificationStates) -> None:
    """The same key seals receivers' secrets: each purpose by itself."""
    folder = Path(reception.site.settings.data_dir) / KEY_FOLDER
    state = states.make("idp", "stream-1")
    with pytest.raises(BrokenSeal):
        SecretSealer(folder).unseal(state)
    assert refused(verify(reception, 1, SecretSealer(folder).seal("0 x"))) == "invalid_state"
