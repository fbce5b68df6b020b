"""From steps to an answer: its text, what of it may be shown, and the message with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from langgraph_arbitrage.events import StepEvent
from langgraph_arbitrage.state import StepRecord
from langgraph_arbitrage.tools.messages import message_of_pieces
from langgraph_arbitrage.tools.parser import Piece

__all__ = ["AnswerStream", "answer_message", "answer_text", "releasable", "trim_separators"]


def answer_text(texts: Sequence[str], stop: Sequence[str], separators: Sequence[str]) -> str:
    """The joined steps up to the first stop string, without separators at the end."""
    text = "".join(texts)
    return trim_separators(text[: _first(stop, text)], separators)


def _first(stop: Sequence[str], text: str) -> int:
    """Where the first stop string begins; the length of a text without any."""
    return min((i for s in stop if (i := text.find(s)) >= 0), default=len(text))


def trim_separators(text: str, separators: Sequence[str]) -> str:
    """`text` without the separators at its end."""
    while found := next((s for s in separators if text.endswith(s)), None):
        text = text[: -len(found)]
    return text


def releasable(text: str, stop: Sequence[str], separators: Sequence[str]) -> int:
    """How many characters of a growing text will be part of the answer whatever follows.

    Held back: a stop string and all after it, separators at the end, which an answer does not
    end with, and whatever may turn out to be the beginning of a stop string or of a separator.
    """
    end = _first(stop, text)  # it may end inside of a token
    while True:
        here = text[:end]
        beginnings = (
            n
            for pattern in (*stop, *separators)
            for n in range(len(pattern) - 1, 0, -1)
            if here.endswith(pattern[:n])
        )
        held = max(
            next((len(s) for s in separators if here.endswith(s)), 0), max(beginnings, default=0)
        )
        if not held:
            return end
        end -= held


class AnswerStream:
    """Releases the text of a growing answer as early as it is certain.

    Example:
        >>> stream = AnswerStream(stop=(), separators=("|",))
        >>> stream.push("2 + 3 = 5|"), stream.push("So 5.|"), stream.finish("2 + 3 = 5|So 5.")
        ('2 + 3 = 5', '|So 5.', '')
    """

    def __init__(self, stop: Sequence[str], separators: Sequence[str]) -> None:
        self._stop = stop
        self._separators = separators
        self._text = ""
        self._released = 0
        self._told = 0  # characters of the current step that came token by token

    def push(self, text: str) -> str:
        """Take more text; what may be shown now."""
        self._text += text
        return self._release(releasable(self._text, self._stop, self._separators))

    def take(self, event: StepEvent) -> str:
        """What may be shown after an event of the run; steps that lost are never shown."""
        match event["type"]:
            case "writing":
                self._told += len(event["text"])
                return self.push(event["text"])
            case "committed":
                new, self._told = event["text"][self._told :], 0
                return self.push(new)
            case "finished":
                return self.finish(event["text"])
        return ""

    def finish(self, answer: str) -> str:
        """What of the final answer was still held back."""
        self._text = answer
        return self._release(len(answer))

    def whole(self, texts: Sequence[str]) -> str:
        """The answer of these steps, of which nothing was shown before."""
        return self.finish(answer_text(texts, self._stop, self._separators))

    def _release(self, end: int) -> str:
        new = self._text[self._released : end]
        self._released = max(self._released, end)
        return new


def answer_message(
    steps: Sequence[StepRecord],
    text: str,
    pieces: Sequence[Piece],
    *,
    model_name: str,
    prompt_tokens: int,
    answer_tokens: int,
    thinking_tokens: int,
    engines: Mapping[str, str],
    finish_reason: str,
    limit: str | None = None,
    logprobs: Sequence[Mapping[str, Any]] | None = None,
) -> AIMessage:
    """The AIMessage of an answer, with usage and the figures of every step.

    Args:
        steps: The records, in order.
        text: The answer as it was written; the texts of the steps are trimmed to it.
        pieces: The same, taken apart into text, thinking and tool calls.
        model_name: The target's name.
        prompt_tokens: Input tokens, by the target's tokenizer.
        answer_tokens: Output tokens, by the target's tokenizer.
        thinking_tokens: Those of them that are thinking.
        engines: How each model that was used runs: `slot` or `plain`.
        finish_reason: Why the answer ended.
        limit: The budget that was spent, if one was: the draft may have gone on alone after.
        logprobs: Each token's log-probability, where they are asked for.
    """
    shown, rest = [], len(text)
    for step in steps:
        part = step["text"][:rest]
        rest -= len(part)
        shown.append(
            {
                "writer": step["writer"],
                "score": step["score"],
                "tokens": len(step["ids"]),
                "kept": step["kept"],
                "seconds": step["seconds"],
                "text": part,
            }
        )
    by_target = sum(s["writer"] == "target" for s in steps)
    figures: dict[str, Any] = {
        "steps": shown,
        "escalation_rate": by_target / len(steps) if steps else 0.0,
        "draft_tokens": sum(len(s["ids"]) for s in steps if s["writer"] == "draft"),
        "target_tokens": sum(len(s["ids"]) for s in steps if s["writer"] == "target"),
        "kept_tokens": sum(s["kept"] for s in steps),
        "discarded_tokens": sum(s["discarded"] for s in steps),
        "forwarded": {
            role: sum(s["forwarded"].get(role, 0) for s in steps)
            for role in ("draft", "target", "router")
        },
        "engine": dict(engines),
        "finish_reason": finish_reason,
    }
    if limit:
        figures["limit"] = limit
    usage = UsageMetadata(
        input_tokens=prompt_tokens,
        output_tokens=answer_tokens,
        total_tokens=prompt_tokens + answer_tokens,
        # The writer's own count; with another tokenizer than the target's it may be higher.
        input_token_details=InputTokenDetails(
            cache_read=min(steps[0]["cached"], prompt_tokens) if steps else 0
        ),
        output_token_details=OutputTokenDetails(reasoning=min(thinking_tokens, answer_tokens)),
    )
    metadata: dict[str, Any] = {
        "model_name": model_name,
        "model_provider": "langgraph_arbitrage",
        "finish_reason": finish_reason,
        "arbitrage": figures,
    }
    if logprobs is not None:
        metadata["logprobs"] = {"content": list(logprobs)}
    return message_of_pieces(pieces, usage_metadata=usage, response_metadata=metadata)
