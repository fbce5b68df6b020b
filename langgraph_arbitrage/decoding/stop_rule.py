"""Detects the end of a step during decoding: separators, closed spans and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from langgraph_arbitrage.decoding.blocks import open_block
from langgraph_arbitrage.models.tokenizer import Tokenizer

__all__ = ["StopRule", "stop_rule"]


class StopRule:
    r"""Matches separators and stop strings at the end of a growing list of token ids.

    The rule searches decoded text, because token ids are ambiguous. A separator may span several
    tokens (`"\n" + "\n"`), and a token may contain more than the separator (`";\n\n\n\n"`). The
    rule decodes the last tokens only if the new token contains the last character of a pattern. The
    check takes 3 µs per token. Separators inside fenced code and LaTeX displays do not end a step.

    Args:
        tokenizer: The model's tokenizer.
        separators: Texts that end a step.
        stop: Texts that end the answer. They take precedence over separators.
        spans: Pairs of an opening and a closing text. A separator between the two does not end the
            step. The closing text ends the step.
        min_tokens: Minimum number of tokens of a step that ends with a separator. Earlier
            separators are ignored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        separators: tuple[str, ...],
        stop: tuple[str, ...],
        spans: tuple[tuple[str, str], ...] = (),
        min_tokens: int = 1,
    ) -> None:
        self.tokenizer = tokenizer
        self.separators = separators
        self.stop = stop
        self.spans = spans
        self.min_tokens = min_tokens
        patterns = (*separators, *stop, *(closing for _, closing in spans))
        self._last_characters = {pattern[-1] for pattern in patterns}
        # Number of trailing tokens to search. Each token has at least one byte, so a pattern of n
        # bytes spans at most n tokens.
        self._window = max((len(pattern.encode()) for pattern in patterns), default=0)
        self._candidates: dict[int, bool] = {}

    def match(
        self, context: int | None, ids: Sequence[int], tail: str, block: str = ""
    ) -> Literal["separator", "stop"] | None:
        """Check whether the last token completes a pattern.

        Args:
            context: The token before the step, or None.
            ids: Token ids of the step so far.
            tail: Text before the step, for stop strings that begin there.
            block: Opening mark of the block that is unfinished at the start of the step, or "".

        Returns:
            "stop" for a stop string, "separator" for a separator or the closing text of a span, or
            None if the step continues.
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
        if self.spans and self._closes_span(context, ids):
            return "separator"
        # Search only for separators that the last token completes. Earlier separators in `text`
        # did not end the step.
        earlier = self.tokenizer.decode_after([] if before is None else [before], ids[start:-1])
        earlier = earlier.rstrip("\ufffd")  # an incomplete character at the end
        if len(ids) >= self.min_tokens and any(
            text.find(pattern, max(0, len(earlier) - len(pattern) + 1)) >= 0
            for pattern in self.separators
        ):
            return self._outside_blocks(context, ids, block)
        return None

    def _closes_span(self, context: int | None, ids: Sequence[int]) -> bool:
        """Return whether the step contains the closing text of its first span."""
        span, rest = self._first_span(self._text(context, ids))
        return span is not None and span[1] in rest

    def _outside_blocks(
        self, context: int | None, ids: Sequence[int], block: str
    ) -> Literal["separator"] | None:
        """Return "separator" if the step ends outside of spans and blocks, otherwise None."""
        text = self._text(context, ids)
        inside = self._first_span(text)[0] is not None or open_block(block + text) is not None
        return None if inside else "separator"

    def _first_span(self, text: str) -> tuple[tuple[str, str] | None, str]:
        """Return the first span in `text`, or None, and the text after its opening text."""
        opened = [(index, span) for span in self.spans if (index := text.find(span[0])) >= 0]
        start, span = min(opened, default=(len(text), None))
        return span, text[start + len(span[0]) :] if span else ""

    def _text(self, context: int | None, ids: Sequence[int]) -> str:
        return self.tokenizer.decode_after([] if context is None else [context], ids)

    def _is_candidate(self, token: int) -> bool:
        """Return whether `token` may complete a pattern. The result is cached per token."""
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
    min_tokens: int = 1,
) -> StopRule:
    """Return the `StopRule` for these arguments. Requests with equal arguments share one rule."""
    return StopRule(tokenizer, separators, stop, spans, min_tokens)
