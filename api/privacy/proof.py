"""The proof of an erasure: a signed document that names who was erased by a slow salted hash alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from ...scoring.chain import ChainHead, chain_heads_document
from ...scoring.notify.alert import format_rfc3339
from ...scoring.privacy import Erasure
from .places import ErasureSummary

PROOF_TYPE = "trustwatch-erasure+jwt"

_REMAINS_ALWAYS = (
    (
        "tombstones of decisions: tenant, UTC day, place and salted digests in the chain",
        "the chain of decisions stays verifiable; the salt is gone, so that no guess can be checked",
        "retention removes them",
    ),
    (
        "what left before: alerts at their receivers, orders at authorization servers, answers to API callers",
        "it is in other systems",
        "they erase it",
    ),
    (
        "back-ups, and bytes of files and rows that were freed on disk",
        "nobody reads them through this service",
        "they are overwritten or expire",
    ),
)
_REMAINS_BY_KIND = {
    "agent": (
        (
            "a row of counts and keyed hashes in each trained model, under a 64-bit hash of the agent's full name",
            "a model is one verified artefact; the row is no longer used (the agent begins as a new one)",
            "those model versions are removed",
        ),
        (
            "counts of its peer group in trained models",
            "sums over many agents, which name none",
            "those model versions are removed",
        ),
        (
            "marks by which the agent is not taken up from a model's history again",
            "HMAC-SHA-256 of its 64-bit hash under the key in `privacy-key`",
            "the key is replaced",
        ),
    ),
    "principal": (
        (
            "keyed 64-bit hashes of the name in the state of agents that acted for it, and in trained models",
            "SipHash-2-4 under the salt of the model; whoever has that salt can check a name they already know. They "
            "are what keeps those agents' habits",
            "those agents are forgotten, or a model with another salt comes into force",
        ),
    ),
}


class ProofSigner(NamedTuple):
    """Signs proofs, and reads them.

    Attributes:
        sign: (document, type) → compact JWS.
        read: (compact JWS, type) → document; raises ValueError where it is none of ours.
    """

    sign: Callable[[dict[str, Any], str], str]
    read: Callable[[str, str], dict[str, Any]]


def proof_document(
    made: Erasure, done_ms: int, after: list[ChainHead], told: ErasureSummary, *, on_server: bool
) -> dict[str, Any]:
    """The document of an erasure that is done.

    Args:
        made: with what was counted.
        done_ms: UTC milliseconds.
        after: heads of the chains now.
        told: what the places say.
        on_server: whether the database is a server, whose own files are not ours.
    """
    counts = {name: count for name, count in made.counts.items() if isinstance(count, int)}
    remains = [*told.remains, *_remaining_entries(made, on_server)]
    return {
        "type": "erasure",
        "version": 1,
        "erasure_id": made.erasure_id,
        "software": version("trustwatch"),
        "asked": {
            "kind": made.kind,
            "tenant": made.tenant,
            "issuer": made.issuer or None,
            "subject": {"scrypt": made.subject_digest, "salt": made.subject_salt, "n": 2**14, "r": 8, "p": 1},
            "reason": made.reason,
            "by": made.asked_by,
            "at": format_rfc3339(made.asked_ms),
        },
        "done_at": format_rfc3339(done_ms),
        "covers": told.covers,
        "erased": counts,
        "left": {},
        "chain": {"before": made.counts.get("chain", []), "after": chain_heads_document(after)},
        "topics": list(told.topics),
        "remains": [{"what": what, "why": why, "until": until} for what, why, until in remains],
    }


def _remaining_entries(made: Erasure, on_server: bool) -> list[tuple[str, str, str]]:
    found = [*_REMAINS_BY_KIND[made.kind], *_REMAINS_ALWAYS]
    if on_server:
        found.append(
            (
                "removed row versions in files, write-ahead log and replicas of PostgreSQL",
                "VACUUM has freed them; the server overwrites them when it uses their room again",
                "they are overwritten, and archived WAL expires",
            )
        )
    return found
