"""Texts of the command line: escapes, control characters, short answers."""

from __future__ import annotations

import pytest

from langgraph_arbitrage.cli.text import printable, short_answer
from langgraph_arbitrage.utils.escapes import unescape


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (r"\n\n", "\n\n"),
        ("\n", "\n"),
        (r"\t|\r", "\t|\r"),
        (r"\\n", r"\n"),
        (r"\x41\u00e9", "Aé"),
        ("héé", "héé"),
        (r"\q", r"\q"),
        ("", ""),
    ],
)
def test_escapes_are_replaced_by_their_characters(typed, expected):
    assert unescape(typed) == expected


def test_control_characters_are_replaced():
    assert printable("a\x1b[2J\x07\x9b\nb\tc\r\nd") == "a�[2J��\nb\tc\nd"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("One line.\n\nThe last.\n", "The last."),
        (r"Never closed \boxed{4", r"Never closed \boxed{4"),
        ("", ""),
    ],
)
def test_a_short_answer_is_the_last_box_or_the_last_line(text, answer):
    assert short_answer(text) == answer
