"""Files of lists: no name of an agent becomes a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from trustwatch.api.csv_rows import rows_as_csv


def cell(value: object) -> str:
    (row,) = csv.DictReader(io.StringIO(rows_as_csv([{"name": value}]), newline=""))
    return row["name"]


@pytest.mark.parametrize(
    "name",
    [
        "=1",
        "+1",
        "-1",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\u200b=1",
        "\u3000=1",
        "\uff1d1",
        "\ufe661",
        "\n",
        "\x00@",
        " \tname",
        "\u22121",
    ],
    ids=ascii,
)
def test_what_a_spreadsheet_might_calculate_is_text(name: str) -> None:
    assert cell(name).startswith("'")


UNSEEN = (
    "\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202d\u202e"
    "\u2060\u2063\u2066\u2069\u206a\u2800\u3164\ufe0f\ufeff\uffa0\ufff9\ufffc\U0001bca0\U0001d173\U000e0001\U000e0020\U000e0100"
)


@pytest.mark.parametrize("sign", UNSEEN, ids=ascii)
def test_what_shows_nothing_hides_no_formula(sign: str) -> None:
    for begin in ("=1", "+1", "-1", "@SUM(1)", "\tname", "\rname", "\uff1d1"):
        for hidden in (sign, sign + " ", sign * 3 + "\u200b"):
            assert cell(hidden + begin) == f"'{hidden}{begin}"
    assert cell(sign + "bot-7") == sign + "bot-7"


@pytest.mark.parametrize("name", ["bot-7", " a", "a=b", "INC-77", "", "\u00e9=1", "7", '"=1"'], ids=ascii)
def test_other_names_stay_as_they_are(name: str) -> None:
    assert cell(name) == name


def test_numbers_stay_numbers() -> None:
    assert (cell(-0.5), cell(None), cell(["-a", "b"])) == ("-0.5", "", "'-a; b")
    assert rows_as_csv([{"share": -0.5}]) == '"share"\r\n-0.5\r\n'


@pytest.mark.parametrize(
    "parting", [";", "\t", "\r", "\n", "\r\n", ";;", "; ", ";\u200b \ufffc", "\u037e", "\uff1b", ';"'], ids=ascii
)
@pytest.mark.parametrize("begin", ["=1+1", "+1", "-1", "@SUM(1)", "\uff1d1", "\u22121"], ids=ascii)
def test_no_formula_begins_inside_of_a_text(parting: str, begin: str) -> None:
    """Where semicolons part cells, quotes keep no text whole; nothing else of it is changed."""
    assert cell(f"x{parting}{begin};y") == f"x{parting}'{begin};y"
    assert cell(f"x{parting}a{begin};y") == f"x{parting}a{begin};y"
    assert cell(["a", f"b{parting}{begin}"]) == f"a; b{parting}'{begin}"


def test_a_table_parted_at_semicolons_has_no_formula() -> None:
    """Read as the spreadsheets of some countries read it, from every column."""
    texts = ["x;=1+1;y", 'x;"=1&"', "x\n=1+1", "x\n\t;@A1", ";=1", "a\r\n\r\n-1;b"]
    table = rows_as_csv([{"at": "now", "name": text, "more": text} for text in texts])
    for delimiter in ";\t":
        cells = [one for row in csv.reader(io.StringIO(table, newline=""), delimiter=delimiter) for one in row]
        assert len(cells) > len(texts) and not [one for one in cells if one.strip()[:1] in tuple("=+-@")], delimiter


def test_each_name_of_a_list_is_looked_at() -> None:
    assert cell(["a", "=1+1"]) == "a; '=1+1"
