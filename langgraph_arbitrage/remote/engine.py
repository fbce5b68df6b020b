"""The engine of a model on an OpenAI-compatible server, asked as a local one is.

Prompts are rendered here, by the model's own tokenizer; only the weights are elsewhere.
"""

from __future__ import annotations

import contextlib
from functools import cached_property

from transformers import AutoConfig, PreTrainedConfig

from langgraph_arbitrage.engine.engine import Engine
from langgraph_arbitrage.engine.requests import GenerateRequest, ScoreRequest
from langgraph_arbitrage.errors import GrammarError, SettingsError
from langgraph_arbitrage.models.checkpoint import context_length, end_ids
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.remote.address import Address
from langgraph_arbitrage.remote.worker import RemoteWorker, import_openai
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["RemoteEngine"]


class RemoteEngine(Engine):
    """Writes steps by raw completions of a server. It scores nothing and knows no grammars.

    A draft's step is not verified in one forward, as a local target does: no server takes one. The
    steps are the same, they take longer.

    Raises:
        CheckpointError: The model's tokenizer cannot be loaded (at its first use).
        MissingExtraError: The client is not installed.
        SettingsError: The model is to score.
    """

    def __init__(self, spec: ModelSpec, address: Address) -> None:
        if spec.kind != "causal-lm":
            raise SettingsError(
                f"a scorer cannot be at {address}: servers write text and score none. Give a "
                "scorer that is here"
            )
        import_openai()
        self.spec = spec
        self.address = address
        # Its context, where the config lies beside the tokenizer; the server knows it anyway.
        self.context = self.vocabulary = None
        self._local: PreTrainedConfig | None = None
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._local = AutoConfig.from_pretrained(address.tokenizer)
            self.context = context_length(self._local)
        self._lock = ForkLock()
        self._started = None
        self._closed = False

    def _new_worker(self) -> RemoteWorker:
        return RemoteWorker(self.spec, self.address, self.tokenizer, self._end_ids, self.context)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        end = self.tokenizer.hf.eos_token_id
        if self._local is None:
            return frozenset() if end is None else frozenset([end])
        return end_ids(ModelSpec(self.address.tokenizer), self._local, end)

    def grammar_marks(self) -> dict[str, int]:
        """None: calls that the model chooses to make are written freely."""
        return {}

    def check_grammar(self, lark: str) -> None:
        """Raise: a grammar needs the model's logits."""
        raise GrammarError(
            f"{self.address} cannot write under a grammar: structured output and forced calls need "
            "models that are here. Leave the choice of a call to the model (tool_choice='auto')"
        )

    def _check(self, request: GenerateRequest | ScoreRequest) -> None:
        if isinstance(request, ScoreRequest):
            raise SettingsError(
                f"{self.address} cannot score a step: take a policy that does not ask the target, "
                "such as a router or DraftConfidence, not Judge"
            )
        super()._check(request)
