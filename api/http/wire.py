"""Answers, derived from the records that hold their values: a member is declared once, next to its description.

`class CaseAgentOut(Wire, of=CaseAgent)` is a pydantic model with every described member of the record (see
`trustwatch.ingest.described`), and `CaseAgentOut.of(case_agent)` makes it of a record. The rules:

- a member or property without a description stays inside the service;
- UTC milliseconds are times of RFC 3339: `opened_ms` is `opened_at`, `at_ms` is `at`, `held_until_ms` is `held_until`;
  with `null=True` 0 and "" are null;
- a number with `level=True` is the word of the risk level;
- a record in a member is an answer, too: `Wire` of that record, the first one declared of it, or one made here. An
  `AgentName`, or a member that is `Annotated[..., FLAT]`, is replaced with its members;
- bytes are JSON.

What the class itself declares is in addition, or replaces the derived type; `of` is given what no record has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from inspect import get_annotations
from operator import attrgetter
from types import NoneType, UnionType, new_class
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import AgentName, LevelName, RiskLevel

TIME_EXAMPLE = "2026-11-24T22:23:14.130Z"
TimeText = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=[TIME_EXAMPLE])]

Convert = Callable[[Any], Any]
_Step = tuple[Convert, Convert | None]
"""Reads a member of a record, and converts it."""


class _Member(NamedTuple):
    """A member of an answer: its path in the record, type, description and examples, and its conversion."""

    path: str
    hint: Any
    info: Mapping[str, Any]
    convert: Convert | None


class Wire(BaseModel):
    """An answer.

    Args of a subclass:
        of: record that its members come from.
        only: names of the record's members that are shown; by default those with a description.
        omit: names that are not shown.
        rename: names of the answer by those of the record; `case.level` of a member of `case`, if that is replaced.
    """

    model_config = ConfigDict(protected_namespaces=())
    wire_plan: ClassVar[dict[str, _Step]] = {}

    def __init_subclass__(
        cls,
        of: type | None = None,
        only: Collection[str] = (),
        omit: Collection[str] = (),
        rename: Mapping[str, str] | None = None,
        **config: Any,
    ) -> None:
        super().__init_subclass__(**config)
        if of is None:
            return
        members = dict(_members(of, frozenset(only), frozenset(omit), rename or {}))
        _models.setdefault(of, cls)
        cls.wire_plan = cls.wire_plan | {name: (attrgetter(one.path), one.convert) for name, one in members.items()}
        declared = get_annotations(cls)
        cls.__annotations__ = {name: one.hint for name, one in members.items() if name not in declared} | declared
        for name, one in members.items():
            if name not in cls.__dict__:
                setattr(cls, name, Field(**one.info))

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():
            notes = _unwrapped(field.annotation)[1]
            for name, value in _info((*notes, *field.metadata)).items():
                if getattr(field, name) is None:
                    setattr(field, name, value)
        cls.model_rebuild(force=True)

    @classmethod
    def of(cls, record: Any, **more: Any) -> Self:
        """Return the answer of a record. *more* are members that the record does not have, or that replace its
        members."""
        return cls.model_validate(_values(cls.wire_plan, record) | more)


_models: dict[Any, type[Wire]] = {}
"""The answer of each record."""


def level_word(level: int) -> Any:
    """Return the word of a level; Any because pydantic, not the type checker, knows the words."""
    return RiskLevel(level).label


def time_or_none(at_ms: int) -> str | None:
    """Like `format_rfc3339`, but returns None for 0, which represents never."""
    return format_rfc3339(at_ms) if at_ms else None


def _values(plan: Mapping[str, _Step], record: Any) -> dict[str, Any]:
    return {name: read(record) if convert is None else convert(read(record)) for name, (read, convert) in plan.items()}


def _members(
    record: type, only: Collection[str], omit: Collection[str], rename: Mapping[str, str]
) -> Iterator[tuple[str, _Member]]:
    hints = {name: hint for name, hint in get_type_hints(record, include_extras=True).items() if name[0] != "_"}
    getters = {name: value.fget for name, value in vars(record).items() if isinstance(value, property)}
    results = {name: get_type_hints(getter, include_extras=True)["return"] for name, getter in getters.items()}
    hints |= {name: hint for name, hint in results.items() if get_origin(hint) is Annotated}
    for name, annotation in hints.items():
        if name in omit or (only and name not in only):
            continue
        hint, notes = _unwrapped(annotation)
        if hint is AgentName or _extra(notes, "flat"):
            inner = _members(hint, (), _below(omit, name), _below(rename, name))
            for below, one in sorted(inner, key=lambda named: named[0] != "agent_id"):  # an agent's id comes first
                yield below, one._replace(path=f"{name}.{one.path}")
        elif (info := _info(notes)) or name in only:
            wire_name, member = _member(name, hint, notes, info)
            yield rename.get(name) or wire_name, member


def _below(names: Any, member: str) -> dict[str, str]:
    """Return the names of an inner record's members, from those that have *member* in front."""
    values = names if isinstance(names, Mapping) else dict.fromkeys(names, "")
    return {name.removeprefix(f"{member}."): new for name, new in values.items() if name.startswith(f"{member}.")}


def _unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and the notes of an annotation; `X | None` has those of X."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, notes = _unwrapped(args[0])
        return inner, (*notes, *args[1:])
    if origin in (Union, UnionType):
        inner, notes = _unwrapped(args[0])
        if notes:
            return Union[(inner, *args[1:])], notes
    return annotation, ()


def _extra(notes: Sequence[Any], name: str) -> bool:
    return any((note.extra or {}).get(name, False) for note in notes if isinstance(note, msgspec.Meta))


def _info(notes: Sequence[Any]) -> dict[str, Any]:
    """Return the description, examples and bounds of a member, each from the last note that has it."""
    info: dict[str, Any] = {}
    for note in notes:
        if isinstance(note, msgspec.Meta):
            given = {"description": note.description, "examples": note.examples}
            info |= {name: value for name, value in given.items() if value is not None}
            if note.extra_json_schema:
                info["json_schema_extra"] = dict(note.extra_json_schema)
    return info if "description" in info else {}


def _member(name: str, hint: Any, notes: Sequence[Any], info: dict[str, Any]) -> tuple[str, _Member]:
    """Return the name of a member in the answer, and the member."""
    kind: Any
    convert: Convert | None
    wire_name = name
    if _extra(notes, "level"):
        kind, convert = LevelName, level_word
        if NoneType in get_args(hint):
            kind, convert = LevelName | None, _unless_none(level_word)
    elif name.endswith("_ms") and hint is int:
        stem = name.removesuffix("_ms")
        wire_name = stem if stem == "at" or stem.endswith("_until") else stem + "_at"
        kind, convert = str, format_rfc3339
        info.setdefault("examples", [TIME_EXAMPLE])
    else:
        kind, convert = _converted(hint)
    if _extra(notes, "null"):
        kind, convert = kind | None, partial(_unless_empty, convert)
    return wire_name, _Member(name, kind, info, convert)


def _unless_empty(convert: Convert | None, value: Any) -> Any:
    if not value:
        return None
    return value if convert is None else convert(value)


def _unless_none(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _converted(hint: Any) -> tuple[Any, Convert | None]:
    """Return the type in the answer for one of a record, and the conversion of its values; None = they are the same."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _converted(args[0])
    if origin in (Union, UnionType):
        kinds = [arg for arg in args if arg is not NoneType and arg != Literal[""]]
        if len(kinds) > 1:
            return Union[tuple(args)], None  # noqa: UP007  # of types that are known only at run time
        kind, convert = _converted(kinds[0])
        return (kind | None if NoneType in args else kind), convert and _unless_none(convert)
    if hint is bytes:
        return Any, lambda value: msgspec.json.decode(value) if value else []
    if origin in (tuple, list, Sequence) and (origin is not tuple or args[1:] == (...,)):
        kind, convert = _converted(args[0])
        each: Convert = list if convert is None else lambda values: [convert(value) for value in values]
        return list[kind], each  # type: ignore[valid-type]
    if isinstance(hint, type) and (issubclass(hint, msgspec.Struct) or hasattr(hint, "_fields")):
        model = _model_of(hint)
        return model, partial(_values, model.wire_plan)
    return hint, None


def _model_of(record: type) -> type[Wire]:
    """Return the answer class of a record in a member: the declared one, else a new one named after it plus `Out`."""
    if record not in _models:
        text = (record.__doc__ or "").partition("\n\n")[0]
        made: dict[str, Any] = {"__doc__": text, "__module__": record.__module__}
        new_class(f"{record.__name__}Out", (Wire,), {"of": record}, lambda namespace: namespace.update(made))
    return _models[record]
