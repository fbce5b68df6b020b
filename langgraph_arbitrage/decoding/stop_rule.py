"""Detects the end of a step during decoding: separators, closed spans and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["StopRule", "stop_rule"]


class StopRule:
    r"""Matches separators and stop strings at the end of a growing list of token ids.

    Comparing token ids is not enough: a separator may be split over tokens (`"\n" + "\n"`), and a
    token may extend beyond it (`";\n\n\n\n"`). So the last ids are decoded and searched, but only
    if the new token contains the last character of a pattern. The check takes 3 µs per token.

    Args:
        tokenizer: The model's tokenizer.
        separators: Texts that end a step.
        stop: Texts that end the answer. They take precedence over separators.
        spans: Opening and closing texts of spans. A separator inside a span does not end the step;
            the closing text does.
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
        patterns = (*separators, *stop, *(closing for _, closing in spans))
        self._last_characters = {pattern[-1] for pattern in patterns}
        # In tokens. Every token has at least one byte, except special tokens, which are not part
        # of any pattern.
        self._window = max((len(pattern.encode()) for pattern in patterns), default=0)
        self._candidates: dict[int, bool] = {}

    def match(
        self, context: int | None, ids: Sequence[int], tail: str
    ) -> Literal["separator", "stop"] | None:
        """Check whether the last token completes a pattern.

        Args:
            context: The token before the step, or None.
            ids: Token ids of the step so far.
            tail: Text before the step, for stop strings that begin there.

        Returns:
            The kind of the pattern, or None if the step continues.
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
            return self._match_outside_spans(context, ids)
        if any(pattern in text for pattern in self.separators):
            return "separator"
        return None

    def _match_outside_spans(
        self, context: int | None, ids: Sequence[int]
    ) -> Literal["separator"] | None:
        """Check for a separator before the first span, or for the closing text of that span."""
        text = self.tokenizer.decode_after([] if context is None else [context], ids)
        opened = [(index, span) for span in self.spans if (index := text.find(span[0])) >= 0]
        start, span = min(opened, default=(len(text), None))
        if any(pattern in text[:start] for pattern in self.separators):
            return "separator"
        closed = span is not None and span[1] in text[start + len(span[0]) :]
        return "separator" if closed else None

    def _is_candidate(self, token: int) -> bool:
        """Whether the token may complete a pattern. Cached per token."""
        candidate = self._candidates.get(token)
        if candidate is None:
            text = self.tokenizer.token_text(token)
            # An incomplete character may become the last character of any pattern.
            candidate = "\ufffd" in text or any(c in text for c in self._last_characters)
            self._candidates[token] = candidate
        return candidate


@lru_cache(maxsize=256)
def stop_rule(
    tokenizer: Tokenizer,
    separators: tuple[str, ...],
    stop: tuple[str, ...],
    spans: tuple[tuple[str, str], ...] = (),
) -> StopRule:
    """Return the `StopRule` of these arguments. Requests share it."""
    return StopRule(tokenizer, separators, stop, spans)
