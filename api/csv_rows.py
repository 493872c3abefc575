"""Rows as CSV that no spreadsheet calculates. It imports little: a process of the pool writes it."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

_FORMULA_SIGNS: Final = frozenset("=+-@\u2212")
"""Those that begin a formula, and the minus sign of the locales that write one."""
_UNSEEN_LETTERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffc")
"""Fillers of Hangul, the empty pattern of Braille, the place of an object: letters and symbols by their category."""
_PARTS_CELLS: Final = re.compile("([;\u037e\uff1b\t\r\n])")
"""Signs at which a spreadsheet may part cells, and those that some programs make semicolons of."""


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV. Text that a spreadsheet would read as a formula is prefixed with an apostrophe, also
    inside cells.
    """
    out = io.StringIO()
    # Quotes do not protect text: a program that splits at semicolons sees no open quote after the first comma.
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _as_cell(value) for name, value in row.items()})
    return out.getvalue()


def _as_cell(value: Any) -> Any:
    """
    >>> _as_cell("=1+1"), _as_cell("INC-77"), _as_cell(None), _as_cell(-0.5), _as_cell(["a", "b"]), _as_cell("x;=1;y")
    ("'=1+1", 'INC-77', '', -0.5, 'a; b', "x;'=1;y")
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        value = "; ".join(str(_as_cell(element)) for element in value)
    if not isinstance(value, str):
        return value
    first, *others = _PARTS_CELLS.split(value)
    text = first + "".join(map(_as_part, others))
    return f"'{text}" if _is_formula(value) else text


def _as_part(text: str) -> str:
    """Return a separator with the text after it; an apostrophe is inserted before the sign of a formula.

    Quotation marks are passed over, too: those of a text are doubled, which has no effect at the beginning of a cell.
    """
    begin = next((at for at, sign in enumerate(text) if sign != '"' and not _is_unseen(sign)), len(text))
    return f"{text[:begin]}'{text[begin:]}" if _is_formula_sign(text[begin : begin + 1]) else text


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet might calculate *text*: some trim leading blanks and invisible characters, or read
    wide signs.
    """
    begin = next((at for at, sign in enumerate(text) if not _is_unseen(sign)), len(text))
    return _is_formula_sign(text[begin : begin + 1]) or not {"\t", "\r", "\n"}.isdisjoint(text[:begin])


def _is_formula_sign(sign: str) -> bool:
    return unicodedata.normalize("NFKC", sign)[:1] in _FORMULA_SIGNS


def _is_unseen(sign: str) -> bool:
    """Return whether a character is invisible: blanks, controls, marks of direction, joiners, variation selectors."""
    return unicodedata.category(sign)[0] in "CMZ" or sign in _UNSEEN_LETTERS
