r"""Extract the final answer from a text, such as the content of its last `\boxed{}`."""

from __future__ import annotations

import re

from langgraph_arbitrage.data.answer_extraction import last_boxed

__all__ = ["final_text"]

_JOINED = re.compile(r"[\s$.)\\\]]*(?:,|and|or|\\text\{ *(?:and|or) *\})[\s$(\\\[]*")
_STATED = re.compile(
    r"answer[^\n.:=]{0,60}?(?:\bis\b|:|=)\s*:?\s*(.+?)(?=\.\s|\.?\s*$|\n)",
    re.IGNORECASE | re.DOTALL,
)
_FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.{}_^\\])[-−]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    r"(?:\s*/\s*\d+(?![\d.]))?(?:\s*\\?%)?"
)
_CONNECTIVE = re.compile(r"(?:so|thus|hence|therefore|then|and)\b[,:]?\s*", re.IGNORECASE)
_COMMAND = re.compile(r"\\text\w*\s*\{[^{}]*\}|\\[a-zA-Z]+")
_SENTENCE_WORDS = 3
"""Minimum number of words in a line that counts as a sentence. The answer in a sentence is its last
formula or number."""


def final_text(text: str) -> str:
    r"""Extract the final answer from a text, in its original notation.

    Returns the first of these that the text contains:

    1. the last `\boxed{}`; boxes joined by commas, `and` or `or` form one list,
    2. the text after `####`,
    3. the text after the last "answer is",
    4. the last line: all of it, or the last formula or number if the line is a sentence.

    Example:
        >>> final_text(r"So \boxed{1} or \boxed{2}."), final_text("She has 3 + 4 = 7 apples left.")
        ('1, 2', '7')
    """
    if boxes := _last_boxes(text):
        return ", ".join(boxes)
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip()
    if stated := _STATED.findall(text):
        return _core(str(stated[-1]).strip().strip("*").strip())
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return _core(lines[-1]) if lines else ""


def _last_boxes(text: str) -> list[str]:
    boxes: list[str] = []
    end = len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        content = last_boxed(text[start:end]) or ""
        after = start + len(r"\boxed{") + len(content) + 1
        if boxes and not _JOINED.fullmatch(text[after:end]):
            break
        boxes.insert(0, content.strip())
        end = start
    return boxes


def _core(line: str) -> str:
    """Return the whole line, or its last formula or number if it is a sentence."""
    words = re.findall(r"[A-Za-z]{2,}", _FORMULA.sub(" ", _COMMAND.sub(" ", line)))
    if len(words) < _SENTENCE_WORDS:
        return _CONNECTIVE.sub("", line, count=1) if _CONNECTIVE.match(line) else line
    if formulas := _FORMULA.findall(line):
        return str(next(part for part in formulas[-1] if part)).strip()
    numbers = [match[0].strip() for match in _NUMBER.finditer(line)]
    return numbers[-1] if numbers else line
