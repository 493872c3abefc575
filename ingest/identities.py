"""Identities of agents, principals and events: keyed hashes of their full names.

An attacker who can compute identities could search for two names that share one, and let one agent pass for another.
Identities are therefore keyed. A deployment has its own secret; training, replay and back-tests, which need none, take
the salt of the model. Scores do not depend on identities: the same events give the same figures under any key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .durable_files import read_key_file
from .errors import ConfigError
from .hashing import BlakeWords, EncodedTexts, blake2b_initial_state, blake2b_pairs, encode_texts
from .record_keys import EVENT_ID_PURPOSE, RAW_RECORD_PURPOSE, event_id_bytes

IDENTITY_KEY_FILE = "identity-key"
IDENTITY_KEY_BYTES = 32
CALL_DIGEST_DIGITS = 32
MAX_KEY_BYTES = 64
"""Bytes of a BLAKE2b key that count."""

_AGENT_PURPOSE, _PRINCIPAL_PURPOSE, _UNKEYED_AGENT_PURPOSE = b"tw-agent-id", b"tw-principal-id", b"tw-agent"
_CALL_PURPOSE, _PATH_PURPOSE = b"trustwatch call\0", b"trustwatch access path\0"
_IDENTITY_BYTES = 16
_two_words = struct.Struct("<2Q").unpack


class AgentHash(NamedTuple):
    """Identity of an agent, 128 bits in two halves, unsigned and never 0."""

    key: int
    """Finds the agent in memory and in the tables."""
    check: int
    """Distinguishes it from another agent that has the same key."""


class IdentityHasher:
    """Hashes of full names under one key."""

    def __init__(self, key: bytes = b"") -> None:
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"an identity key has at most {MAX_KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self._begun = {
            purpose: hashlib.blake2b(digest_size=_IDENTITY_BYTES, key=key, person=purpose)
            for purpose in (_AGENT_PURPOSE, _PRINCIPAL_PURPOSE)
        }
        """Hashes that have taken the key in, which is half of the work on a name."""

    def __reduce__(self) -> tuple[type[IdentityHasher], tuple[bytes]]:
        return IdentityHasher, (self._key,)

    def __repr__(self) -> str:
        return "IdentityHasher(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdentityHasher) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self.proof)

    @cached_property
    def _agents_begun(self) -> BlakeWords:
        """The same as `_begun` of agents, for compiled code; few processes hash many names, the others load none."""
        return blake2b_initial_state(_AGENT_PURPOSE, self._key, _IDENTITY_BYTES)

    def agent_hash(self, tenant: str, issuer: str, agent_id: str) -> AgentHash:
        """Identity of an agent."""
        return self._hash(_AGENT_PURPOSE, tenant, issuer, agent_id)

    def agent_hashes(self, names: EncodedTexts) -> npt.NDArray[np.uint64]:
        """Identities of many agents, (n, 2): key and check of each `AgentHash`."""
        hashes = blake2b_pairs(names, self._agents_begun)
        hashes[hashes == 0] = 1
        return hashes

    def agent_key(self, tenant: str, issuer: str, agent_id: str) -> int:
        """First half of an agent's identity, by which it is found."""
        return self._hash(_AGENT_PURPOSE, tenant, issuer, agent_id).key

    def principal_key(self, tenant: str, issuer: str, principal: str) -> int:
        """The same of a principal: no principal shares one with an agent."""
        return self._hash(_PRINCIPAL_PURPOSE, tenant, issuer, principal).key

    def event_id_hash(
        self, tenant: str | None, source: str | None, event_id: str | None, raw: bytes | memoryview
    ) -> int:
        """Identity of an event: unsigned 64 bits, never 0.

        An id is unique within its tenant and source, as CloudEvents says for `source` + `id`. Without an id the
        record's own bytes are its identity.
        """
        data = event_id_bytes(tenant, source, event_id) if event_id else raw
        person = EVENT_ID_PURPOSE if event_id else RAW_RECORD_PURPOSE
        digest = hashlib.blake2b(data, digest_size=8, key=self._key, person=person).digest()
        return int.from_bytes(digest, "little") or 1

    def call_digest(self, tenant: str, issuer: str, agent_id: str, call: bytes) -> str:
        """Digest of one call of an agent, 32 hexadecimal digits. It does not reveal the content of the call."""
        return self._digest(_CALL_PURPOSE + _joined(tenant, issuer, agent_id) + b"\0" + call)

    def access_path_digest(self, tenant: str, issuer: str, agent_id: str, path: bytes) -> str:
        """Digest of the access path by which an agent calls, as `call_digest`."""
        return self._digest(_PATH_PURPOSE + _joined(tenant, issuer, agent_id) + b"\0" + path)

    def _digest(self, data: bytes) -> str:
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:CALL_DIGEST_DIGITS]

    def event_states(self) -> tuple[BlakeWords, BlakeWords]:
        """Begun hashes of event ids and of records without one, for compiled code that does as `event_id_hash`."""
        return blake2b_initial_state(EVENT_ID_PURPOSE, self._key), blake2b_initial_state(RAW_RECORD_PURPOSE, self._key)

    @property
    def is_keyed(self) -> bool:
        """False for the hasher of tools without a deployment."""
        return bool(self._key)

    @property
    def proof(self) -> str:
        """Hexadecimal text that identifies this key without revealing it."""
        return hmac.new(self._key, b"trustwatch identity key", hashlib.sha256).hexdigest()

    def _hash(self, person: bytes, tenant: str, issuer: str, name: str) -> AgentHash:
        begun = self._begun[person].copy()
        begun.update(_joined(tenant, issuer, name))
        key, check = _two_words(begun.digest())
        return AgentHash(key or 1, check or 1)


def unkeyed_agent_key(tenant: str, issuer: str, agent_id: str) -> int:
    """Hash of an agent's full name that is the same everywhere and forever: unsigned 64 bits, never 0.

    Two names that share one can be searched for, so it decides nothing about who an agent is. It chooses what is
    learned by a draw, shares work out, and finds what 0.1 wrote, whose agents were known by it.
    """
    data = _joined(tenant, issuer, agent_id)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=_UNKEYED_AGENT_PURPOSE).digest(), "little") or 1


def encode_agent_names(tenants: Sequence[str], issuers: Sequence[str], agent_ids: Sequence[str]) -> EncodedTexts:
    """Full names of many agents as they are hashed, under whichever key."""
    pairs = list(zip(tenants, issuers, strict=True))
    begins = {pair: _joined_text(*pair, "") for pair in set(pairs)}  # few pairs, many agents
    return encode_texts([begins[pair] + agent_id for pair, agent_id in zip(pairs, agent_ids, strict=True)])


def _joined(tenant: str, issuer: str, name: str) -> bytes:
    return _joined_text(tenant, issuer, name).encode()


def _joined_text(tenant: str, issuer: str, name: str) -> str:
    """The parts with their lengths, so that no two triples share one text."""
    return f"{len(tenant)}:{len(issuer)}:{tenant}{issuer}{name}"


def open_identity_key(path: Path, *, create: bool) -> IdentityHasher:
    """The hasher of a deployment, from a file. Raises ConfigError."""
    if not create and not path.exists():
        raise ConfigError(
            f"{path}: the identity key of this database is missing. Put it back from a backup, or copy it from"
            " another process of the deployment. If it is lost, `trustwatch identities renew` makes a new one"
        )
    sizes = range(IDENTITY_KEY_BYTES, MAX_KEY_BYTES + 1)
    return IdentityHasher(read_key_file(path, "the identity key", sizes, create=create))


# Pseudonyms and marks of what was erased have a key of their own, which is made on first use.

PRIVACY_KEY_FILE = "privacy-key"
PRIVACY_KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 1024
MAX_REMEMBERED_PSEUDONYMS = 16_384
"""Pseudonyms that are remembered; then all are forgotten and made again."""

_PSEUDONYM = re.compile(r"p~[0-9a-f]{32}")


class PrivacyKey:
    """Keyed hashes (HMAC-SHA-256) of names. Without the key no name can be found from one."""

    def __init__(self, key: bytes) -> None:
        if len(key) < PRIVACY_KEY_BYTES:
            raise ValueError(f"a key has at least {PRIVACY_KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self._pseudonyms: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return "PrivacyKey(…)"

    def erasure_mark(self, agent_key: int) -> str:
        """By which a forgotten agent is recognized, hexadecimal."""
        return self._digest(b"forgotten", str(agent_key).encode())

    def pseudonym(self, tenant: str, name: str) -> str:
        """Pseudonym of a tenant's principal: always the same under the same key. A pseudonym is returned as it is."""
        if _PSEUDONYM.fullmatch(name):
            return name
        pseudonym = self._pseudonyms.get((tenant, name))
        if pseudonym is None:
            if len(self._pseudonyms) >= MAX_REMEMBERED_PSEUDONYMS:
                self._pseudonyms.clear()
            pseudonym = "p~" + self._digest(b"principal", f"{len(tenant)}:{tenant}{name}".encode())[:32]
            self._pseudonyms[tenant, name] = pseudonym
        return pseudonym

    def origin_key(self, tenant: str, epoch: int, generation: int) -> str:
        """Key, hexadecimal, under which clients of a tenant hash the arguments of calls in one period."""
        return self._digest(b"origin key", f"{generation}:{epoch}:{tenant}".encode())

    def nonce_key(self) -> bytes:
        """Key of the nonces that clients prove themselves with: the same in every process of the deployment."""
        return bytes.fromhex(self._digest(b"nonces", b""))

    def _digest(self, purpose: bytes, data: bytes) -> str:
        return hmac.new(self._key, purpose + b"\0" + data, hashlib.sha256).hexdigest()


def open_privacy_key(path: Path) -> PrivacyKey:
    """The key in a file, created if missing. Raises ConfigError."""
    return PrivacyKey(read_key_file(path, "the key of pseudonyms", range(PRIVACY_KEY_BYTES, MAX_KEY_FILE_BYTES)))
