"""The ends of steps in typical texts of models: lists, code, LaTeX displays, headings."""

import pytest

from langgraph_arbitrage.decoding.blocks import open_block
from langgraph_arbitrage.decoding.stop_rule import StopRule
from langgraph_arbitrage.models.tokenizer import Tokenizer
from tiny import tokenizer

OPEN = [
    ("Run this:\n```python\nimport os\n\n", "```python\n"),
    ("1. First:\n   ```\n   a\n\n", "   ```\n"),
    ("````md\n```py\nx\n```\n\n", "````md\n"),  # a shorter fence does not close a longer one
    ("~~~\n```\n\n", "~~~\n"),
    ("So\n\\[\nx = 2\n\n", "\\["),
    ("$$\nx\n\n", "$$"),
    ("\\begin{align}\nx &= 1 \\\\[2pt]\n\n", "\\begin{align}"),
    ("```\na\n```\nand\n```\nb\n\n", "```\n"),
]
CLOSED = [
    "Plain text.\n\n",
    "```python\nx = 1\n\ny = 2\n```\n\n",
    "Use ```inline``` code.\n\n",
    "   ```\n   a\n   ```\n\n",
    "\\[ x = 2 \\]\n\n",
    "$$ x $$ and $$ y $$\n\n",
    "\\begin{align}\nx\n\\end{align}\n\n",
    "a \\\\[2pt] b\n\n",
    "It costs $5 and $6.\n\n",
    "```\n$$ \\[\n```\n\n",  # marks within a block have no meaning
]


@pytest.mark.parametrize(("text", "mark"), OPEN)
def test_a_block_is_open_until_its_closing_mark(text: str, mark: str) -> None:
    assert open_block(text) == mark
    # The opening mark alone is enough to detect that the next step begins inside the block.
    assert open_block(mark + "more\n\n") == mark


@pytest.mark.parametrize("text", CLOSED)
def test_text_outside_of_blocks(text: str) -> None:
    assert open_block(text) is None


def steps(text: str, min_tokens: int = 1, block: str = "") -> list[str]:
    """Split a text as decoding does, token by token."""
    made = Tokenizer(tokenizer(), "tiny", None)
    rule = StopRule(made, ("\n\n",), (), min_tokens=min_tokens)
    found, ids, context = [], list[int](), None
    for token in made.encode(text, begins=True):
        ids.append(token)
        if rule.match(context, ids, "", block):
            found.append(made.decode_after([] if context is None else [context], ids))
            ids, context, block = [], token, ""
    return [*found, made.decode_after([] if context is None else [context], ids)]


def test_steps_end_at_blank_lines() -> None:
    assert steps("Add 3.\n\nAdd 4.\n\nSo 7.") == ["Add 3.\n\n", "Add 4.\n\n", "So 7."]


def test_no_step_ends_within_code_or_a_display() -> None:
    code = "Write:\n```python\na = 1\n\nb = 2\n```\n\n"
    display = "So\n\\[\nx = 3\n\n= 2 + 1\n\\]\n\n"
    assert steps(code + display + "Done.") == [code, display, "Done."]


def test_a_step_that_begins_within_code_ends_after_it() -> None:
    rest = "b = 2\n\nc = 3\n```\n\n"
    assert steps(rest + "Done.", block="```python\n") == [rest, "Done."]


def test_a_heading_continues_with_the_next_lines() -> None:
    text = "### 1\n\nShe starts with 3 and adds 4 apples.\n\n### 2\n\nSo 3 + 4 = 7 apples."
    assert steps(text, min_tokens=12) == [
        "### 1\n\nShe starts with 3 and adds 4 apples.\n\n",
        "### 2\n\nSo 3 + 4 = 7 apples.",
    ]


def test_an_earlier_separator_does_not_end_a_step_that_has_become_long_enough() -> None:
    text = "A\n\nB C D E F G H\nI\n\nJ"
    assert steps(text, min_tokens=10) == ["A\n\nB C D E F G H\nI\n\n", "J"]
