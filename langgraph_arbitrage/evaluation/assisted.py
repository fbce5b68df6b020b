"""The lossless baseline: token-level speculative decoding by transformers."""

from __future__ import annotations

import threading
import time
from functools import cached_property
from typing import Any

import torch
from langchain_core.messages import HumanMessage
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

from langgraph_arbitrage.config.run_options import MAX_TOKENS
from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine.cpu import threads_for
from langgraph_arbitrage.errors import RequestCancelledError
from langgraph_arbitrage.evaluation.reply import Reply, StepRow
from langgraph_arbitrage.loop.engine_calls import CancelScope
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.checkpoint import end_ids
from langgraph_arbitrage.models.loading import load_model
from langgraph_arbitrage.policies import AlwaysTarget

__all__ = ["AssistedAnswerer"]


class AssistedAnswerer:
    """Answers with the target's `generate` in transformers, with the draft as the assistant model.

    The draft proposes tokens and the target verifies them in one forward pass. A greedy answer is
    identical to that of the target alone; a sampled answer has the same distribution. This class
    loads its own copy of both models, in addition to the engines' copies. It generates one answer
    at a time, even if questions are answered concurrently.
    """

    def __init__(self, settings: ArbitrageSettings) -> None:
        self._settings = settings
        self._models = Models(settings)
        self._lock = threading.Lock()
        self._pair: tuple[PreTrainedModel, PreTrainedModel] | None = None
        self._forwards = {"draft": 0, "target": 0}

    def warm_up(self) -> float:
        """Load the models. Return the seconds this took.

        There are no caches to clear, because `generate` keeps none between answers.
        """
        start = time.perf_counter()
        with self._lock:
            if self._pair is None:
                draft, target = self._load()
                verbosity = get_verbosity()
                # Hide a warning about internals of `generate`, which the first call logs.
                set_verbosity_error()
                self._generate(self._prompt("Hello!"), draft, target, CancelScope(), 2)
                set_verbosity(verbosity)
        return time.perf_counter() - start

    def _load(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        if self._pair is None:
            models = {}
            for role in ("draft", "target"):
                model = load_model(self._models.engine(role).spec)
                model.register_forward_hook(self._forward_counter(role))
                models[role] = model
            self._pair = models["draft"], models["target"]
        return self._pair

    def _forward_counter(self, role: str) -> Any:
        def count(module: Any, args: Any, output: Any) -> None:
            self._forwards[role] += 1

        return count

    def answer(self, prompt: str, scope: CancelScope) -> Reply:
        """Answer a question. Cancelling `scope` stops generation."""
        with self._lock:
            return self._answer(prompt, scope)

    def close(self) -> None:
        """Release the models."""
        self._pair = None
        self._models.close()

    def _answer(self, prompt: str, scope: CancelScope) -> Reply:
        draft, target = self._load()
        if target.device.type == "cpu":
            torch.set_num_threads(threads_for(target.num_parameters()))
        start = time.perf_counter()
        ids = self._prompt(prompt)
        self._forwards.update(draft=0, target=0)
        new = self._generate(ids, draft, target, scope)
        seconds = time.perf_counter() - start
        if scope.cancelled:
            raise RequestCancelledError("the answer was cancelled")
        return self._reply(new, seconds)

    def _prompt(self, text: str) -> list[int]:
        settings = RunSettings.of(self._settings.under(AlwaysTarget()))
        return self._models.render_prompts([HumanMessage(text)], settings)["target"]

    def _generate(
        self,
        ids: list[int],
        draft: PreTrainedModel,
        target: PreTrainedModel,
        scope: CancelScope,
        max_tokens: int | None = None,
    ) -> list[int]:
        """Generate the token ids of an answer."""
        s, models = self._settings, self._models
        context = models.engine("target").context
        limit = s.max_tokens or MAX_TOKENS
        room = limit if context is None else min(limit, context - len(ids))
        options: dict[str, Any] = {"do_sample": False, "eos_token_id": sorted(self._ends)}
        if s.temperature:
            torch.manual_seed(s.seed or 0)
            options |= {
                "do_sample": True,
                "temperature": s.temperature,
                "top_p": 1.0 if s.top_p is None else s.top_p,
                "top_k": s.top_k or 0,
            }
        target_tokenizer, draft_tokenizer = models.tokenizer("target"), models.tokenizer("draft")
        if not target_tokenizer.shares_vocabulary(draft_tokenizer):
            options |= {
                "tokenizer": target_tokenizer.hf,
                "assistant_tokenizer": draft_tokenizer.hf,
            }
        prompt = torch.tensor([ids], device=target.device)  # [1, prompt tokens]
        with torch.inference_mode():
            out: Any = target.generate(  # type: ignore[operator]
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_tokens or room,
                assistant_model=draft,
                stopping_criteria=StoppingCriteriaList([_StopIfCancelled(scope)]),
                **options,
            )
        new: list[int] = out[0, len(ids) :].tolist()
        return new

    def _reply(self, new: list[int], seconds: float) -> Reply:
        ends = self._ends
        finish = "stop" if new and new[-1] in ends else "length"
        tokenizer = self._models.tokenizer("target")
        text = tokenizer.decode([token for token in new if token not in ends])
        rows = [
            StepRow(
                writer="target",
                text=part,
                score=None,
                tokens=len(tokenizer.encode(part)),
                seconds=0.0,
                draft=None,
                s_d=None,
                s_t=None,
            )
            for part in _steps(text, self._settings.separator)
        ]
        # Each forward of the target yields one token in addition to the accepted draft tokens, so
        # the target wrote as many tokens as it ran forwards.
        target_tokens = min(self._forwards["target"], len(new))
        accepted = len(new) - target_tokens
        discarded = max(0, self._forwards["draft"] - accepted)
        return Reply(text.strip(), rows, seconds, finish, accepted, target_tokens, discarded)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Token ids that end an answer. The engine uses the same ids."""
        engine = self._models.engine("target")
        return end_ids(engine.spec, engine.config, engine.tokenizer.hf.eos_token_id)


class _StopIfCancelled(StoppingCriteria):
    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        shape, device = (input_ids.shape[0],), input_ids.device
        return torch.full(shape, self._scope.cancelled, dtype=torch.bool, device=device)


def _steps(text: str, separators: tuple[str, ...]) -> list[str]:
    """Split a text after each separator."""
    parts = [text]
    for separator in separators:
        parts = [
            piece + separator * (i < len(pieces) - 1)
            for pieces in (part.split(separator) for part in parts)
            for i, piece in enumerate(pieces)
        ]
    return [part for part in parts if part.strip()]
