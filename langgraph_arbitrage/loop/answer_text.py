"""The text of an answer: its end, and the part of a growing answer that cannot change."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TextRelease", "answer_text", "trim_separators"]


def answer_text(text: str, stop: Sequence[str], separators: Sequence[str]) -> str:
    """Return the joined text up to the first stop string, without trailing separators."""
    return trim_separators(text[: _first_stop(stop, text)], separators)


def trim_separators(text: str, separators: Sequence[str]) -> str:
    """Return the text without trailing separators."""
    while found := next((s for s in separators if text.endswith(s)), None):
        text = text[: -len(found)]
    return text


class TextRelease:
    """Releases a growing text as early as possible.

    It holds back a stop string and everything after it, trailing separators, and any suffix that
    may be the beginning of a stop string or a separator.

    Example:
        >>> release = TextRelease(stop=(), separators=("|",))
        >>> release.push("2 + 3 = 5|"), release.push("So 5.|"), release.finish("2 + 3 = 5|So 5.")
        ('2 + 3 = 5', '|So 5.', '')
    """

    def __init__(self, stop: Sequence[str], separators: Sequence[str]) -> None:
        self.text = ""
        """All text pushed so far."""
        self._stop = stop
        self._separators = separators
        self._reach = max((len(s) for s in stop), default=0)
        self._released = 0

    def push(self, text: str) -> str:
        """Append text; return the newly released text."""
        self.text += text
        return self._take(self._certain())

    def finish(self, answer: str) -> str:
        """Return the text that was held back, given the complete answer."""
        self.text = answer
        return self._take(len(answer))

    def _take(self, end: int) -> str:
        new = self.text[self._released : end]
        self._released = max(self._released, end)
        return new

    def _certain(self) -> int:
        """Count the leading characters that belong to the answer whatever follows."""
        # A stop string may end inside a token, but it does not begin in released text.
        end = _first_stop(self._stop, self.text, max(0, self._released - self._reach))
        while True:
            here = self.text[self._released : end]
            beginnings = (
                n
                for pattern in (*self._stop, *self._separators)
                for n in range(len(pattern) - 1, 0, -1)
                if here.endswith(pattern[:n])
            )
            whole = (len(s) for s in self._separators if here.endswith(s))
            held = max(max(whole, default=0), max(beginnings, default=0))
            if not held:
                return end
            end -= held


def _first_stop(stop: Sequence[str], text: str, start: int = 0) -> int:
    """Return the index of the first stop string, or the length of a text without one."""
    return min((i for s in stop if (i := text.find(s, start)) >= 0), default=len(text))
