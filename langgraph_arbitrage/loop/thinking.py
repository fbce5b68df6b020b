"""The thinking at the start of an answer: its limit, its end and its length."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.loop.answer_state import joined_text
from langgraph_arbitrage.loop.models import Models, vocabulary_owner
from langgraph_arbitrage.policies import Writer
from langgraph_arbitrage.prompts.chat_template import Template
from langgraph_arbitrage.state import StepRecord
from langgraph_arbitrage.tools.parser import THINKING, open_thinking

__all__ = ["ThinkingBudget"]


class ThinkingBudget:
    """Limits and counts the thinking of answers.

    Args:
        models: The models.
        roles: The writers of the run.
        settings: The run's settings.
    """

    def __init__(self, models: Models, roles: Sequence[Writer], settings: RunSettings) -> None:
        self._models = models
        self._roles = roles
        self._settings = settings
        self._limit = settings.max_thinking_tokens

    def is_open(self, steps: Sequence[StepRecord]) -> bool:
        """Return True if the next step begins inside the thinking."""
        return self._open_mark(steps) is not None

    def tokens_left(self, steps: Sequence[StepRecord]) -> int | None:
        """Return the maximum tokens of the next step if it may be thinking; otherwise None."""
        if self._limit is None:
            return None
        templates = [self._models.template(role, self._settings) for role in self._roles]
        begins = not steps and any(template.supports_thinking for template in templates)
        if not begins and self._open_mark(steps) is None:
            return None
        return max(1, self._limit - sum(len(s["ids"]) for s in steps))

    def close(self, record: StepRecord, steps: Sequence[StepRecord]) -> StepRecord:
        """Append the end of the thinking to a step if the budget is spent.

        Args:
            record: The next step.
            steps: The steps before it.
        """
        every = [*steps, record]
        if self._limit is None or sum(len(s["ids"]) for s in every) < self._limit:
            return record
        mark = self._open_mark(every)
        if mark is None:
            return record
        text = f"\n{mark}\n\n"
        ids = self._models.tokenizer(vocabulary_owner(record["writer"])).encode(text)
        logprobs = [*record["logprobs"], *[0.0] * len(ids)] if record["logprobs"] else []
        closed: StepRecord = {
            **record,
            "ids": [*record["ids"], *ids],
            "text": record["text"] + text,
            "logprobs": logprobs,
        }
        return closed

    def count(self, steps: Sequence[StepRecord]) -> int:
        """Count the target's tokens of the answer up to the end of its thinking."""
        opened = self._template(steps).opening_mark if steps else None
        tokenizer = self._models.tokenizer("target")
        total, text = 0, ""
        for step in steps:
            before, text = text, text + step["text"]
            ids = self._models.step_ids("target", step)
            if open_thinking(text, opened) is not None:
                total += len(ids)
                continue
            mark = open_thinking(before, opened)
            ends = [step["text"].rfind(end) for _, end in THINKING if mark in (None, end)]
            if max(ends) >= 0:
                total += sum(
                    len(tokenizer.decode(ids[:n])) <= max(ends) for n in range(1, len(ids))
                )
        return total

    def _open_mark(self, steps: Sequence[StepRecord]) -> str | None:
        """Return the mark that closes the thinking at the end of the answer; None outside of it."""
        opened = self._template(steps).opening_mark
        return open_thinking(joined_text(steps), opened)

    def _template(self, steps: Sequence[StepRecord]) -> Template:
        """Return the chat template of the answer's first writer."""
        return self._models.template(self._first_writer(steps), self._settings)

    def _first_writer(self, steps: Sequence[StepRecord]) -> Writer:
        return vocabulary_owner(steps[0]["writer"]) if steps else self._roles[0]
