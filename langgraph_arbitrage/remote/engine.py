"""The engine of a model on an OpenAI-compatible server, with the interface of a local engine.

The model's tokenizer runs locally. The server needs only to complete token ids or text.
"""

from __future__ import annotations

import contextlib
from functools import cached_property

from transformers import AutoConfig, PreTrainedConfig

from langgraph_arbitrage.engine.engine import Engine
from langgraph_arbitrage.engine.requests import GenerateRequest, ScoreRequest
from langgraph_arbitrage.errors import GrammarError, SettingsError
from langgraph_arbitrage.models.checkpoint import context_length, end_ids
from langgraph_arbitrage.models.generation_config import GenerationDefaults
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.remote.address import ServerAddress
from langgraph_arbitrage.remote.worker import RemoteWorker, import_openai
from langgraph_arbitrage.utils.fork_lock import ForkLock

__all__ = ["RemoteEngine"]


class RemoteEngine(Engine):
    """Generates steps with a server's completions endpoint.

    The engine differs from a local engine in three ways. It does not support grammars. It ignores
    the draft tokens of a request, because servers cannot verify them. Its only scores are those of
    draft tokens (`verify_only`), on servers that return `prompt_logprobs`.

    Args:
        spec: The model. `spec.path` is the server address.
        address: The parsed address.

    Raises:
        CheckpointError: The tokenizer cannot be loaded. Raised when the tokenizer is first used.
        MissingExtraError: The openai client is not installed.
        SettingsError: The model is a scorer.
    """

    def __init__(self, spec: ModelSpec, address: ServerAddress) -> None:
        if spec.kind != "causal-lm":
            raise SettingsError(
                f"A scorer cannot run on a server ({address}), because the completions endpoint "
                "returns no scores. Use a scorer with a local checkpoint."
            )
        import_openai()
        self.spec = spec
        self.address = address
        # The tokenizer's folder may have no config.json. Then only the server enforces the context
        # length and the vocabulary size.
        self.context = self.vocab_size = None
        self._local_config: PreTrainedConfig | None = None
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._local_config = AutoConfig.from_pretrained(address.tokenizer)
            self.context = context_length(self._local_config)
        self._lock = ForkLock()
        self._started = None
        self._closed = False

    def _new_worker(self) -> RemoteWorker:
        return RemoteWorker(self.spec, self.address, self.tokenizer, self._end_ids, self.context)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        end = self.tokenizer.hf.eos_token_id
        if self._local_config is None:
            return frozenset() if end is None else frozenset([end])
        return end_ids(ModelSpec(self.address.tokenizer), self._local_config, end)

    @property
    def generation_defaults(self) -> GenerationDefaults:
        """No defaults: sampling on a server follows the settings alone."""
        return GenerationDefaults()

    def grammar_marks(self) -> dict[str, int]:
        """Return an empty dict, because a server does not support grammars."""
        return {}

    def check_grammar(self, lark: str) -> None:
        """Raise `GrammarError`, because servers do not return the logits that a grammar needs."""
        raise GrammarError(
            f"{self.address} cannot generate under a grammar: structured output and forced tool "
            "calls need a local model. Use a local checkpoint, or let the model decide whether to "
            "call a tool (tool_choice='auto')."
        )

    def _check(self, request: GenerateRequest | ScoreRequest) -> None:
        if isinstance(request, ScoreRequest):
            raise SettingsError(
                f"{self.address} cannot score a step. Use a policy that needs no scores from this "
                "model, such as LearnedRouter or DraftConfidence instead of Judge."
            )
        super()._check(request)
