"""Finds fenced code and LaTeX displays. A step must not end inside such a block."""

from __future__ import annotations

import re

__all__ = ["open_block"]

_OPENING = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[^`\n]*$"  # a fence starts a line
    r"|(?P<bracket>(?<!\\)\\\[)"  # not \\[2pt], a LaTeX line break
    r"|(?P<dollars>\$\$)"
    r"|\\begin\{(?P<environment>[^}\n]+)\}",
    re.MULTILINE,
)


def open_block(text: str) -> str | None:
    r"""Return the opening mark of the block that is unfinished at the end of `text`, or None.

    Blocks are fenced code (three or more backticks or tildes at the start of a line), `$$ … $$`,
    `\[ … \]` and `\begin{…} … \end{…}`. Blocks do not nest: opening marks inside a block are
    ignored.

    Example:
        >>> open_block("So:\n\\[ 2 + 3 = 5\n\n")
        '\\['
        >>> open_block("So:\n\\[ 2 + 3 = 5 \\]\n\n") is None
        True
    """
    start = 0
    while opening := _OPENING.search(text, start):
        closing = _closing(opening).search(text, opening.end())
        if closing is None:
            return opening.group() + ("\n" if opening["fence"] else "")
        start = closing.end()
    return None


def _closing(opening: re.Match[str]) -> re.Pattern[str]:
    """Return the pattern of the closing mark for an opening mark."""
    if fence := opening["fence"]:
        return re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
    if opening["bracket"]:
        return re.compile(r"\\\]")
    if opening["dollars"]:
        return re.compile(r"\$\$")
    return re.compile(re.escape(f"\\end{{{opening['environment']}}}"))
