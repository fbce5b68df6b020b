r"""The end that mathematical answers come to: `\boxed{…}`."""

from __future__ import annotations

__all__ = ["last_boxed"]

_OPENING = r"\boxed{"


def last_boxed(text: str, *, torn: bool = True) -> str | None:
    r"""What stands in the last `\boxed{}` of a text, braces inside of it counted; None without one.

    Args:
        text: The text.
        torn: Whether a box that is never closed counts, up to the end of the text.

    Example:
        >>> last_boxed(r"\boxed{1} or rather \boxed{\frac{1}{2}}."), last_boxed("1")
        ('\\frac{1}{2}', None)
    """
    start = text.rfind(_OPENING)
    if start < 0:
        return None
    start += len(_OPENING)
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:] if torn else None
