"""Texts of others on one line."""

import pytest

from trustwatch.ingest.printable_text import printable_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        (" \n\t ", ""),
        ("no such client", "no such client"),
        ("a\r\nb\x1b[31m\x00c", "a b [31m c"),
        ("\u202egnp.exe", "gnp.exe"),
        ("naïve — 测试", "naïve — 测试"),
    ],
)
def test_a_text_becomes_one_printable_line(text, line):
    assert printable_line(text) == line


def test_a_limit_counts_characters_of_the_line():
    assert printable_line("\n\n abcdef", 3) == "abc"
    assert printable_line("abc", 3) == "abc"
