"""Where a step ends: separators, closed spans and stop strings, found while ids are written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["StopRule", "stop_rule"]


class StopRule:
    r"""Looks for separators and stop strings at the end of a growing list of token ids.

    A set of end ids is not enough: `"\n" + "\n"` makes a separator out of two tokens, and a
    token may overhang it (`";\n\n\n\n"`). So the last few ids are decoded and searched,
    but only after a token that holds the last character of some pattern (3 µs a token).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        separators: tuple[str, ...],
        stop: tuple[str, ...],
        spans: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.separators = separators
        self.stop = stop
        self.spans = spans
        closes = [close for _, close in spans]
        self._last_characters = {pattern[-1] for pattern in (*separators, *stop, *closes)}
        # A token holds at least one byte, but for special tokens, which end no pattern.
        self._window = max((len(p.encode()) for p in (*separators, *stop, *closes)), default=0)
        self._candidates: dict[int, bool] = {}

    def found(
        self, context: int | None, ids: Sequence[int], tail: str
    ) -> Literal["separator", "stop"] | None:
        """What the last of `ids` completes, if anything.

        Args:
            context: The token before the step, or None.
            ids: The step's own ids so far.
            tail: The text before the step, for stop strings that begin there.
        """
        if not self._window or not self._is_candidate(ids[-1]):
            return None
        start = max(0, len(ids) - self._window)
        before = ids[start - 1] if start else context
        text = self.tokenizer.decode_after([] if before is None else [before], ids[start:])
        if self.stop:
            searched = tail + text if start == 0 else text
            if any(pattern in searched for pattern in self.stop):
                return "stop"
        if self.spans:
            return self._span_end(context, ids)
        if any(pattern in text for pattern in self.separators):
            return "separator"
        return None

    def _span_end(self, context: int | None, ids: Sequence[int]) -> Literal["separator"] | None:
        """The same where a span keeps separators inside it from ending the step."""
        text = self.tokenizer.decode_after([] if context is None else [context], ids)
        opened = [(at, pair) for pair in self.spans if (at := text.find(pair[0])) >= 0]
        start, span = min(opened, default=(len(text), None))
        if any(pattern in text[:start] for pattern in self.separators):
            return "separator"
        closed = span is not None and span[1] in text[start + len(span[0]) :]
        return "separator" if closed else None

    def _is_candidate(self, token: int) -> bool:
        known = self._candidates.get(token)
        if known is None:
            text = self.tokenizer.token_text(token)
            # An incomplete character may turn out to be any of them.
            known = "\ufffd" in text or any(c in text for c in self._last_characters)
            self._candidates[token] = known
        return known


@lru_cache(maxsize=256)
def stop_rule(
    tokenizer: Tokenizer,
    separators: tuple[str, ...],
    stop: tuple[str, ...],
    spans: tuple[tuple[str, str], ...] = (),
) -> StopRule:
    """One `StopRule` for each combination, shared by all requests."""
    return StopRule(tokenizer, separators, stop, spans)
