"""What we sign, verified by libraries of other languages: `jose` of Node.js and go-jose, by examples/client."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.service_stack.go_program import go_program
from scripts.service_stack.oidc_provider import node, node_modules
from trustwatch.api.http.auth.set_encryption import encrypt_token, parse_encryption_keys
from trustwatch.api.http.auth.set_verification import SET_TYPE
from trustwatch.api.http.auth.signing import SecurityEventKeys
from trustwatch.api.http.responses import AnswerKind, AnswerSigner

from ..support.checkout import ROOT
from ..support.proofs import encryption_jwk, public_jwk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(700)]

ISSUER = "https://trust.example"
ANSWER: dict[str, Any] = {"agent_id": "bot", "risk_level": "high", "reasons": [{"text": "a „quoted“ ü"}]}
KINDS: tuple[AnswerKind, ...] = ("risk", "risks", "decision", "decisions", "alert")


PROGRAMS = ("node", "go")
GO_JOSE = ("github.com/go-jose/go-jose/v4", "v4.1.9")


class Verifier:
    """A program, beside the library that it needs."""

    def __init__(self, program: str, folder: Path, jwks: bytes) -> None:
        self._folder = folder
        examples = ROOT / "examples" / "client"
        if program == "go":
            self._command = [str(go_program(examples / "verify_answer.go", *GO_JOSE))]
        else:
            shutil.copy(examples / "verify_answer.mjs", folder)
            (folder / "node_modules").symlink_to(node_modules())
            self._command = [node(), "verify_answer.mjs"]
        (folder / "jwks.json").write_bytes(jwks)

    def verify(self, token: str, typ: str, audience: str = "soc", own: dict[str, Any] | None = None) -> Any:
        """Claims of a token, which is decrypted with the private key *own*; None = it is refused."""
        command = [*self._command, "jwks.json", ISSUER, audience, typ]
        if own is not None:
            (self._folder / "own.json").write_text(json.dumps(own))
            command.append("own.json")
        done = subprocess.run(command, cwd=self._folder, input=token, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.mark.parametrize("program", PROGRAMS)
def test_answers_and_security_event_tokens(program: str, tmp_path: Path) -> None:
    """Each by its own type alone, for its audience, until it ends; a changed one is refused."""
    keys = SecurityEventKeys(tmp_path / "keys", 1e9, time.time, time.monotonic)
    signer = AnswerSigner(keys, ISSUER, 60, time.time, lambda: "1")
    expired = AnswerSigner(keys, ISSUER, 60, lambda: time.time() - 120, lambda: "1")
    verifier = Verifier(program, tmp_path, keys.jwks())
    body = json.dumps(ANSWER).encode()
    for kind in KINDS:
        token = signer.sign(kind, "soc", body).decode()
        assert verifier.verify(token, f"trustwatch-{kind}+jwt")[kind] == ANSWER
    head, payload, signature = token.split(".")
    assert verifier.verify(token, SET_TYPE) is None
    assert verifier.verify(token, "trustwatch-alert+jwt", "somebody") is None
    assert verifier.verify(f"{head}.{payload}.{signature[:-8]}AAAAAAAA", "trustwatch-alert+jwt") is None
    assert verifier.verify(expired.sign("alert", "soc", body).decode(), "trustwatch-alert+jwt") is None

    claims = {"iss": ISSUER, "aud": "soc", "iat": int(time.time()), "jti": "1", "events": {"urn:x": {}}}
    assert verifier.verify(keys.sign(claims), SET_TYPE) == claims


@pytest.mark.parametrize(
    ("program", "kty", "crv"),
    [("node", "RSA", ""), ("node", "EC", "P-256"), ("node", "OKP", "X25519"), ("go", "RSA", ""), ("go", "EC", "P-256")],
    ids=["node-rsa", "node-ec", "node-okp", "go-rsa", "go-ec"],
)
def test_encrypted_security_event_tokens(program: str, tmp_path: Path, kty: str, crv: str) -> None:
    """Signed, then encrypted to the receiver's key: it is decrypted and verified; with another key it is neither."""
    keys = SecurityEventKeys(tmp_path / "keys", 1e9, time.time, time.monotonic)
    verifier = Verifier(program, tmp_path, keys.jwks())
    own, other = encryption_jwk(kty, crv), encryption_jwk(kty, crv)
    (known,) = parse_encryption_keys(json.dumps({"keys": [public_jwk(own)]}).encode()).keys
    claims = {"iss": ISSUER, "aud": "soc", "iat": int(time.time()), "jti": "1", "events": {"urn:x": {}}}
    signed = keys.sign(claims)
    encrypted = encrypt_token(signed, known)

    assert verifier.verify(encrypted, SET_TYPE, own=own) == claims
    assert verifier.verify(encrypted, SET_TYPE, own=other) is None
    assert verifier.verify(encrypted, SET_TYPE) is None
    assert verifier.verify(signed, SET_TYPE, own=own) is None
