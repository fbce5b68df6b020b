"""Texts of the command line: escapes, control characters, final answers."""

from __future__ import annotations

import pytest

from langgraph_arbitrage.cli.text import final_answer, printable
from langgraph_arbitrage.utils.escapes import unescape


@pytest.mark.parametrize(
    ("typed", "meant"),
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
def test_escapes_in_a_separator_stand_for_their_characters(typed, meant):
    assert unescape(typed) == meant


def test_no_character_of_a_model_can_steer_the_terminal():
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
def test_an_answer_comes_down_to_its_box_or_its_last_line(text, answer):
    assert final_answer(text) == answer
