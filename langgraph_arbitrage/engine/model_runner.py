"""The batched runner: builds the inputs of a forward, runs the model, and returns logits."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.attention import (
    Layout,
    PackedLayout,
    active_layout,
    use_cache_attention,
)
from langgraph_arbitrage.engine.cuda_graphs import CudaGraphs
from langgraph_arbitrage.engine.kv_cache import KVCache
from langgraph_arbitrage.engine.rope import depends_on_history, rope_switch
from langgraph_arbitrage.engine.sequence import Batch
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["ModelRunner"]

# Maximum number of tokens per forward, by device type. It limits how long the prefill of one
# sequence delays the next token of other sequences.
TOKENS_PER_FORWARD = {"cpu": 256, "cuda": 2048}


class ModelRunner:
    """Runs batches of sequences with a KV cache. Packs the tokens of a batch in one row [1, T].

    Args:
        model: A transformers model. Its attention function is replaced.
        spec: The model's specification.
        context: Context length of the model in tokens. None: unlimited.

    Raises:
        ValueError: The model cannot use the KV cache.
    """

    name = "slot"
    verifies_drafts = True

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, context: int | None) -> None:
        if depends_on_history(model.config):
            raise ValueError("its rotary embedding depends on the longest sequence so far")
        use_cache_attention(model)
        self.model = model
        self.rope_switch = rope_switch(model.config)
        self.device = model.device
        layers: int = model.config.get_text_config().num_hidden_layers
        graphs = spec.cuda_graphs and not spec.batch_invariant
        self.cache = KVCache(layers, spec.max_slots, context, name=spec.name, zeroed=bool(graphs))
        self.tokens_per_forward = TOKENS_PER_FORWARD.get(self.device.type, 2048)
        self.cuda_graphs = CudaGraphs.of(model, spec, self.cache) if graphs else None
        self._classifies = spec.kind != "causal-lm"
        # If the layers are on several devices, index tensors are on the CPU, which works for all.
        devices = set((getattr(model, "hf_device_map", None) or {}).values())
        self._index_device = torch.device("cpu") if len(devices) > 1 else self.device
        # Attention ignores this mask. With a 4D mask, a model neither creates a mask nor searches
        # the ids for padding.
        self._mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
        parameter = inspect.signature(model.forward).parameters.get("logits_to_keep")
        self._supports_logits_to_keep = parameter is not None and "Tensor" in str(
            parameter.annotation
        )

    def forward(self, batch: Batch) -> Tensor:
        """Compute the tokens of a batch, and append them to the slots.

        Returns:
            Logits of the last `batch.logit_counts[i]` positions of each sequence i: [W, V], or
            [W, labels] for a classifier.
        """
        logits = self.cuda_graphs.forward(batch, self._run) if self.cuda_graphs else None
        if logits is None:
            logits = self._run_packed(batch)
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            sequence.mark_computed(count)
        return logits

    def _run_packed(self, batch: Batch) -> Tensor:
        """Compute the logits of a batch with an eager forward."""
        slots = [s.slot for s in batch.sequences]
        starts = [len(slot.tokens) for slot in slots]
        slot_indices = [slot.index for slot in slots]
        layout = PackedLayout(slot_indices, starts, batch.counts, self.cache.length)
        ids: list[int] = []
        logit_indices: list[int] = []
        end = 0
        parts = zip(batch.sequences, starts, batch.counts, batch.logit_counts, strict=True)
        for sequence, start, count, logit_count in parts:
            ids += sequence.tokens[start : start + count]
            end += count
            logit_indices += range(end - logit_count, end)
        inputs = on_device([ids, layout.positions], self.device)
        # Models need at least one index. If no logits are needed, the extra row is removed below.
        indices = on_device(logit_indices or [end - 1], self._index_device)
        return self._run(layout, inputs[:1], inputs[1:], indices)[: len(logit_indices)]

    def _run(self, layout: Layout, ids: Tensor, positions: Tensor, logit_indices: Tensor) -> Tensor:
        """Run the model on ids [1, T] and positions [1, T].

        Returns:
            The logits [W, V] or [W, labels] at the indices `logit_indices` [W].
        """
        self.cache.layout = layout
        kwargs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": self._mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        with active_layout(layout):
            if self._classifies:
                hidden = self.model.base_model(**kwargs).last_hidden_state[0]
                selected = hidden.index_select(0, logit_indices.to(hidden.device))
                return self.model.score(selected)  # type: ignore[operator, no-any-return]
            if self._supports_logits_to_keep:
                logits: Tensor = self.model(**kwargs, logits_to_keep=logit_indices).logits[0]
                return logits
            logits = self.model(**kwargs).logits[0]
            return logits.index_select(0, logit_indices.to(logits.device))
