"""Native schema in the scanner's form: made from the types of `NativeEvent`, so that there is one schema.

Every member that the schema names gets a field number. Names of members and words of closed vocabularies have at most
16 bytes; the kernels compare them as two 64-bit words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec.inspect as mi
import numpy as np
import numpy.typing as npt

from trustwatch_client.events import HASH_PATTERN, MAX_ARGUMENTS, MAX_CALL_INDEX, MAX_ID_LENGTH, MAX_LABEL_LENGTH

from ..events import CAUSES, EFFECTS, EVENT_TYPES, ORIGINS, OUTCOMES, PROVENANCES, NativeEvent

UNKNOWN, TEXT, IDENTIFIER, NAMES, WORD, TIME, SIZE, COUNT, INTEGER, FLAG, OBJECT, FREE_OBJECT = range(12)
LABEL, HEX_HASH, CALL_INDEX, OBJECTS = range(12, 16)
"""Kinds of members: what the schema does not name, then its types."""

TOP_LEVEL = 0
"""Level of the record's own members; each object in it is a level, and so is each vocabulary."""

MAX_WORD_BYTES = 16
WORD_SLOTS = 256
"""Places of the table of words; a power of two, at least twice as many as words."""

_TYPES: tuple[tuple[mi.Type, int], ...] = (
    (mi.StrType(max_length=MAX_ID_LENGTH), TEXT),
    (mi.StrType(min_length=1, max_length=MAX_ID_LENGTH), IDENTIFIER),
    (mi.ListType(mi.StrType(max_length=MAX_ID_LENGTH), max_length=256), NAMES),
    (mi.DateTimeType(), TIME),
    (mi.FloatType(ge=0), SIZE),
    (mi.FloatType(ge=1), COUNT),
    (mi.IntType(), INTEGER),
    (mi.BoolType(), FLAG),
    (mi.DictType(mi.StrType(), mi.AnyType()), FREE_OBJECT),
    (mi.StrType(min_length=1, max_length=MAX_LABEL_LENGTH), LABEL),
    (mi.StrType(pattern=HASH_PATTERN), HEX_HASH),
    (mi.IntType(ge=0, le=MAX_CALL_INDEX), CALL_INDEX),
)
MAX_FIELDS = 64
"""Fields are bits of one number while a record is read."""
_VOCABULARIES = {
    "type": EVENT_TYPES,
    "effect": EFFECTS,
    "outcome": OUTCOMES,
    "caused_by": CAUSES,
    "resource.provenance": PROVENANCES,
    "arguments.origin": ORIGINS,
}
"""Vocabularies in the order of their codes."""


class SchemaMember(NamedTuple):
    """One member of the schema. `inner` is the level of its members, items' members or words; -1 if it has none."""

    path: str
    level: int
    kind: int
    nullable: bool
    required: bool
    inner: int


class ScanSchema(NamedTuple):
    """The schema as arrays for the kernels. Field numbers are positions in `SCHEMA_MEMBERS`."""

    kinds: npt.NDArray[np.int64]  # (fields,)
    nullable: npt.NDArray[np.bool_]  # (fields,)
    inner: npt.NDArray[np.int64]  # (fields,)
    required: npt.NDArray[np.uint64]  # (levels,): the bits of the fields that an object of that level must have
    words: npt.NDArray[np.uint64]  # (WORD_SLOTS, 2): the bytes of a name, padded with 0
    levels: npt.NDArray[np.int64]  # (WORD_SLOTS,): position of the name, -1 = an empty slot
    meanings: npt.NDArray[np.int64]  # (WORD_SLOTS,): the field number, or the code of a word


def _schema_members() -> Iterator[SchemaMember]:
    """Return all members. Those of nested objects follow those of the record."""
    objects: list[tuple[str, int, mi.StructType]] = [("", TOP_LEVEL, mi.type_info(NativeEvent))]  # type: ignore[list-item]
    levels = 1
    for prefix, level, struct in objects:
        for field in struct.fields:
            path, inner = prefix + field.encode_name, -1
            kind_type, nullable = _without_none(field.type)
            kind = _member_kind(path, kind_type)
            if kind in (OBJECT, OBJECTS, WORD):
                inner, levels = levels, levels + 1
            struct_type = kind_type.item_type if isinstance(kind_type, mi.ListType) else kind_type
            if isinstance(struct_type, mi.StructType):
                objects.append((f"{path}.", inner, struct_type))
            yield SchemaMember(path, level, kind, nullable, field.required, inner)


def _without_none(field_type: mi.Type) -> tuple[mi.Type, bool]:
    """Return a type without its description and `None`, and whether it had `None`."""
    if isinstance(field_type, mi.Metadata):
        return _without_none(field_type.type)
    if not isinstance(field_type, mi.UnionType):
        return field_type, False
    (kept,) = (part for part in field_type.types if not isinstance(part, mi.NoneType))
    return kept, True


def _member_kind(path: str, field_type: mi.Type) -> int:
    if isinstance(field_type, mi.StructType):
        return OBJECT
    if isinstance(field_type, mi.ListType) and isinstance(field_type.item_type, mi.StructType):
        return OBJECTS if field_type.max_length == MAX_ARGUMENTS else _refuse_type(path, field_type)
    if isinstance(field_type, mi.LiteralType) and set(_VOCABULARIES[path]) == set(field_type.values):
        return WORD
    for scanned_type, kind in _TYPES:
        if field_type == scanned_type:
            return kind
    return _refuse_type(path, field_type)


def _refuse_type(path: str, field_type: mi.Type) -> int:
    raise TypeError(f"the scanner cannot read the type of {path}: {field_type}")


SCHEMA_MEMBERS: tuple[SchemaMember, ...] = tuple(_schema_members())
FIELD_COUNT = len(SCHEMA_MEMBERS)
if FIELD_COUNT > MAX_FIELDS:
    raise TypeError(f"the schema has {FIELD_COUNT} members; the scanner reads at most {MAX_FIELDS}")
_NUMBER = {member.path: number for number, member in enumerate(SCHEMA_MEMBERS)}


def field_number(path: str) -> int:
    """Return the number of a field. Raises KeyError for a path that is not in the schema."""
    return _NUMBER[path]


def _build_schema() -> ScanSchema:
    schema = ScanSchema(
        np.array([m.kind for m in SCHEMA_MEMBERS]),
        np.array([m.nullable for m in SCHEMA_MEMBERS]),
        np.array([m.inner for m in SCHEMA_MEMBERS]),
        np.zeros(1 + max(m.inner for m in SCHEMA_MEMBERS), np.uint64),
        np.zeros((WORD_SLOTS, 2), np.uint64),
        np.full(WORD_SLOTS, -1, np.int64),
        np.zeros(WORD_SLOTS, np.int64),
    )
    for number, member in enumerate(SCHEMA_MEMBERS):
        schema.required[member.level] |= np.uint64(member.required << number)
        _insert_word(schema, member.path.rpartition(".")[2], member.level, number)
        for code, word in enumerate(_VOCABULARIES.get(member.path, ())):
            _insert_word(schema, word, member.inner, code)
    return schema


def _insert_word(schema: ScanSchema, name: str, level: int, meaning: Any) -> None:
    data = name.encode().ljust(MAX_WORD_BYTES, b"\0")
    if len(data) > MAX_WORD_BYTES:
        raise ValueError(f"{name!r} has more than {MAX_WORD_BYTES} bytes: the scanner would not find it")
    first, second = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
    mixed = (first ^ (second * 0x9E3779B97F4A7C15) ^ (level * 0xC2B2AE3D27D4EB4F)) & (2**64 - 1)
    slot = ((mixed * 0xFF51AFD7ED558CCD) & (2**64 - 1)) >> 56  # as `record_scanner.find_word` computes it
    while schema.levels[slot] >= 0:
        slot = (slot + 1) % WORD_SLOTS
    schema.words[slot], schema.levels[slot], schema.meanings[slot] = (first, second), level, meaning


SCAN_SCHEMA = _build_schema()
