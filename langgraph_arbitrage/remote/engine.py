"""An engine for a model on an OpenAI-compatible server, with the interface of a local engine.

The model's tokenizer runs locally and renders the prompts. Only the weights are on the server.
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
    """Generates steps with a server's completions endpoint. Grammars are not supported.

    Draft tokens are not verified in one forward, since servers have no endpoint for it. The output
    is the same as without draft tokens; it only takes longer than on a local target. Of the scores,
    only those of draft tokens are supported (`verify_only`), on servers that return
    `prompt_logprobs`.

    Args:
        spec: The model. Its `path` is the server address.
        address: The parsed address.

    Raises:
        CheckpointError: The model's tokenizer cannot be loaded (at its first use).
        MissingExtraError: The openai client is not installed.
        SettingsError: The model is a scorer.
    """

    def __init__(self, spec: ModelSpec, address: ServerAddress) -> None:
        if spec.kind != "causal-lm":
            raise SettingsError(
                f"A scorer cannot run on a server ({address}): servers generate text but return no "
                "scores. Use a scorer with a local checkpoint."
            )
        import_openai()
        self.spec = spec
        self.address = address
        # The config may be missing beside the tokenizer. Then only the server enforces the limits.
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
        """Nothing: the server applies the generation config of its own checkpoint."""
        return GenerationDefaults()

    def grammar_marks(self) -> dict[str, int]:
        """Return no tokens: a server does not constrain tool calls by a grammar."""
        return {}

    def check_grammar(self, lark: str) -> None:
        """Raise `GrammarError`: a grammar needs the model's logits, which servers do not return."""
        raise GrammarError(
            f"{self.address} cannot generate under a grammar: structured output and forced tool "
            "calls need a local model. Use a local checkpoint, or let the model decide whether to "
            "call a tool (tool_choice='auto')."
        )

    def _check(self, request: GenerateRequest | ScoreRequest) -> None:
        if isinstance(request, ScoreRequest):
            raise SettingsError(
                f"{self.address} cannot score a step. Use a policy that does not score with the "
                "target, such as LearnedRouter or DraftConfidence, not Judge."
            )
        super()._check(request)
