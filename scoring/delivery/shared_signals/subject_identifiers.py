"""Subject identifiers (RFC 9493 and SSF 1.0, section 3): of agents, and whether two of them mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from ...records.security_events import StreamSubject
from .announced_decision import AnnouncedDecision

SubjectFormat = Literal["iss_sub", "uri", "complex"]
"""Format in which CAEP events name agents."""

_URI_PREFIXES: Final = ("spiffe://", "wimse://", "https://")
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "account": ("uri",),
    "email": ("email",),
    "iss_sub": ("iss", "sub"),
    "opaque": ("id",),
    "phone_number": ("phone_number",),
    "phone": ("phone_number",),  # as an example of SSF 1.0 has it
    "did": ("url",),
    "uri": ("uri",),
    "jwt_id": ("iss", "jti"),
    "saml_assertion_id": ("issuer", "assertion_id"),
}
MAX_MEMBERS = 20
MAX_TEXT_CHARS: Final = 2_048
MAX_SUBJECT_CHARS: Final = 8_192
"""Characters of all texts of one subject: all subjects of a stream are read for each change."""


class InvalidSubject(ValueError):
    """A document is not a subject identifier; the message states what is wrong and where."""


def check_subject(subject: object, path: str = "$.subject") -> dict[str, Any]:
    """*subject*, if it is a subject identifier, with what its format has alone. Raises InvalidSubject."""
    checked = _checked(subject, path)
    if _chars(checked) > MAX_SUBJECT_CHARS:
        raise InvalidSubject(f"{path}: more than {MAX_SUBJECT_CHARS} characters")
    return checked


def _checked(subject: object, path: str) -> dict[str, Any]:
    given = _with_format(subject, path)
    match given["format"]:
        case "complex":
            members = {name: part for name, part in given.items() if name != "format"}
            if not members:
                raise InvalidSubject(f"{path}: a complex subject has at least one member other than `format`")
            return {"format": "complex", **{name: _simple(part, f"{path}.{name}") for name, part in members.items()}}
        case "aliases":
            parts = given.get("identifiers")
            if not isinstance(parts, list) or not parts or len(parts) > MAX_MEMBERS:
                raise InvalidSubject(f"{path}.identifiers: expected a list of 1 to {MAX_MEMBERS} identifiers")
            checked = [_simple(part, f"{path}.identifiers[{number}]") for number, part in enumerate(parts)]
            return {"format": "aliases", "identifiers": checked}
    return _simple(given, path)


def _with_format(subject: object, path: str) -> dict[str, Any]:
    if not isinstance(subject, dict) or not isinstance(subject.get("format"), str):
        raise InvalidSubject(f"{path}: expected an object with a member `format`")
    if len(subject) > MAX_MEMBERS:
        raise InvalidSubject(f"{path}: more than {MAX_MEMBERS} members")
    return subject


def _simple(subject: object, path: str) -> dict[str, Any]:
    given = _with_format(subject, path)
    match given["format"]:
        case "complex" | "aliases":
            raise InvalidSubject(f"{path}: expected a simple identifier")
        case "ip-addresses":
            addresses = given.get("ip-addresses")
            if not isinstance(addresses, list) or not addresses or not all(map(_is_text, addresses)):
                raise InvalidSubject(f"{path}.ip-addresses: expected a list of texts")
            return {"format": "ip-addresses", "ip-addresses": addresses}
        case name if name in _MEMBERS:
            for member in _MEMBERS[name]:
                if not _is_text(given.get(member)):
                    expected = f"expected a text of 1 to {MAX_TEXT_CHARS} characters, as the format `{name}` has it"
                    raise InvalidSubject(f"{path}.{member}: {expected}")
            return {"format": name, **{member: given[member] for member in _MEMBERS[name]}}
    raise InvalidSubject(f"{path}.format: expected one of {', '.join(sorted({*_MEMBERS, 'complex'}))}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_CHARS


def _chars(part: object) -> int:
    if isinstance(part, dict):
        return sum(len(name) + _chars(member) for name, member in part.items())
    return sum(map(_chars, part)) if isinstance(part, list) else len(str(part))


def agent_subject(decision: AnnouncedDecision, subject_format: SubjectFormat, *, workload: bool) -> dict[str, Any]:
    """The subject of an event about the agent of *decision*."""
    uri = _uri_subject(decision.agent_id)
    if workload and uri is not None:
        return uri
    if subject_format == "complex" and not workload:
        members = {"application": _plain_subject(decision)}
        if decision.principal:
            members["user"] = _principal_subject(decision)
        return {"format": "complex", **members}
    if subject_format == "uri" and uri is not None:
        return uri
    return _plain_subject(decision)


def _uri_subject(agent_id: str) -> dict[str, Any] | None:
    return {"format": "uri", "uri": agent_id} if agent_id.startswith(_URI_PREFIXES) else None


def _plain_subject(decision: AnnouncedDecision) -> dict[str, Any]:
    if decision.issuer:
        return {"format": "iss_sub", "iss": decision.issuer, "sub": decision.agent_id}
    return _uri_subject(decision.agent_id) or {"format": "opaque", "id": decision.agent_id}


def _principal_subject(decision: AnnouncedDecision) -> dict[str, Any]:
    if decision.issuer:
        return {"format": "iss_sub", "iss": decision.issuer, "sub": decision.principal}
    return {"format": "opaque", "id": decision.principal}


def is_wanted(decision: AnnouncedDecision, said: Sequence[StreamSubject]) -> bool:
    """False if the last word of a receiver on a subject that matches the agent of *decision* is no."""
    members = _known_members(decision)
    matching = [part.wanted for part in said if _matches(part.subject, members)]
    return matching[-1] if matching else True


def simple_subjects(decision: AnnouncedDecision) -> list[dict[str, Any]]:
    """Every simple subject identifier that means the agent of *decision*."""
    return _known_members(decision)["application"]


def _known_members(decision: AnnouncedDecision) -> dict[str, list[dict[str, Any]]]:
    """Every identifier by which the agent, its principal and its tenant may be meant."""
    uri = _uri_subject(decision.agent_id)
    agent = [_plain_subject(decision), {"format": "opaque", "id": decision.agent_id}, *([] if uri is None else [uri])]
    members = {"application": agent, "tenant": [{"format": "opaque", "id": decision.tenant}]}
    if decision.principal:
        members["user"] = [_principal_subject(decision), {"format": "opaque", "id": decision.principal}]
    return members


def _matches(subject: Mapping[str, Any], known: Mapping[str, list[dict[str, Any]]]) -> bool:
    """SSF 1.0, section 8.1.3.1: simple ones are identical; members of complex ones are, or one side has none."""
    match subject["format"]:
        case "complex":
            members = (item for item in subject.items() if item[0] != "format")
            return all(name not in known or part in known[name] for name, part in members)
        case "aliases":
            return any(part in known["application"] for part in subject["identifiers"])
        case _:
            return subject in known["application"]
