"""Applies a checkpoint's token rules to next-token logits with transformers' logits processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from langgraph_arbitrage.models.generation_config import TokenRules

__all__ = ["LogitsRules"]


class LogitsRules:
    """Applies the token rules to one answer.

    Args:
        rules: The rules.
        answer_start: Index in the token ids at which the answer begins.
        end_ids: Tokens that end an answer.
    """

    def __init__(self, rules: TokenRules, answer_start: int, end_ids: frozenset[int]) -> None:
        self._rules = rules
        self._answer_start = answer_start
        self._end_ids = sorted(end_ids)
        self._processors: LogitsProcessorList | None = None

    def apply(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Apply the rules to the logits of the token after `tokens`.

        Args:
            logits: Raw logits [V]. They are not modified.
            tokens: Token ids of the prompt and the answer so far.

        Returns:
            Float32 logits [V].
        """
        if self._processors is None:
            self._processors = self._build(logits.device)
        ids = torch.tensor([tokens], device=logits.device)
        changed: Tensor = self._processors(ids, logits[None].float())[0]  # type: ignore[arg-type]
        return changed

    def _build(self, device: torch.device) -> LogitsProcessorList:
        """Create the processors, in the order in which transformers' `generate` applies them."""
        rules, ends = self._rules, self._end_ids
        found: list[LogitsProcessor] = []
        if rules.repetition_penalty != 1:
            found.append(RepetitionPenaltyLogitsProcessor(rules.repetition_penalty))
        if rules.no_repeat_ngram_size:
            found.append(NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram_size))
        if rules.bad_words_ids:
            words = [list(word) for word in rules.bad_words_ids]
            found.append(NoBadWordsLogitsProcessor(words, ends or None))
        if rules.min_new_tokens and ends:
            found.append(
                MinNewTokensLengthLogitsProcessor(
                    self._answer_start, rules.min_new_tokens, ends, device=str(device)
                )
            )
        if rules.suppress_tokens:
            found.append(
                SuppressTokensLogitsProcessor(list(rules.suppress_tokens), device=str(device))
            )
        if rules.begin_suppress_tokens:
            found.append(
                SuppressTokensAtBeginLogitsProcessor(
                    list(rules.begin_suppress_tokens), self._answer_start, device=str(device)
                )
            )
        return LogitsProcessorList(found)
