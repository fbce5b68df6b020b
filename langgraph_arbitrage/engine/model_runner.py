"""The only caller of the model: builds the inputs of a forward, runs it, returns logits."""

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
from langgraph_arbitrage.engine.sequence import Batch
from langgraph_arbitrage.engine.transfer import on_device
from langgraph_arbitrage.models.spec import ModelSpec

__all__ = ["ModelRunner"]

TOKENS_PER_FORWARD = {"cpu": 256, "cuda": 2048}  # bounds how long a decoding sequence waits


class ModelRunner:
    """Runs batches of sequences over a KV cache, all tokens packed in one row.

    Args:
        model: An unmodified Hugging Face model. Its attention function is replaced.
        spec: Its settings.
        context: Its context length; None without a limit.

    Raises:
        ValueError: The model cannot use the cache.
    """

    name = "slot"
    verifies_drafts = True

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, context: int | None) -> None:
        use_cache_attention(model)
        self.model = model
        self.device = model.device
        layers: int = model.config.get_text_config().num_hidden_layers
        graphs = spec.cuda_graphs and not spec.batch_invariant
        self.cache = KVCache(layers, spec.max_slots, context, name=spec.name, zeroed=bool(graphs))
        self.tokens_per_forward = TOKENS_PER_FORWARD.get(self.device.type, 2048)
        self.cuda_graphs = CudaGraphs.of(model, spec, self.cache) if graphs else None
        self._classifies = spec.kind != "causal-lm"
        # Layers may be on several devices; an index on the CPU selects on any of them.
        devices = set((getattr(model, "hf_device_map", None) or {}).values())
        self._keep_device = torch.device("cpu") if len(devices) > 1 else self.device
        # Attention ignores it. Given one of four dimensions, models make no mask of their own, and
        # do not search the ids for padding.
        self._mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
        keep = inspect.signature(model.forward).parameters.get("logits_to_keep")
        self._keeps_logits = keep is not None and "Tensor" in str(keep.annotation)

    def forward(self, batch: Batch) -> Tensor:
        """Compute the batch's tokens.

        Returns:
            Logits of its wanted positions, [W, V], or [W, labels] of a classifier.
        """
        logits = self.cuda_graphs.forward(batch, self._run) if self.cuda_graphs else None
        if logits is None:
            logits = self._packed(batch)
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            sequence.computed(count)
        return logits

    def _packed(self, batch: Batch) -> Tensor:
        slots = [s.slot for s in batch.sequences]
        starts = [len(slot.tokens) for slot in slots]
        indices = [slot.index for slot in slots]
        layout = PackedLayout(indices, starts, batch.counts, self.cache.length)
        ids: list[int] = []
        wanted: list[int] = []
        first = 0
        rows = zip(batch.sequences, starts, batch.counts, batch.wanted, strict=True)
        for sequence, start, count, kept in rows:
            ids += sequence.tokens[start : start + count]
            first += count
            wanted += range(first - kept, first)
        inputs = on_device([ids, layout.positions], self.device)
        keep = on_device(wanted or [first - 1], self._keep_device)
        return self._run(layout, inputs[:1], inputs[1:], keep)[: len(wanted)]

    def _run(self, layout: Layout, ids: Tensor, positions: Tensor, keep: Tensor) -> Tensor:
        """Logits at the kept places [W] of tokens [1, T]: [W, V], or [W, labels]."""
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
                return self.model.score(hidden.index_select(0, keep.to(hidden.device)))  # type: ignore[operator, no-any-return]
            if self._keeps_logits:
                logits: Tensor = self.model(**kwargs, logits_to_keep=keep).logits[0]
                return logits
            logits = self.model(**kwargs).logits[0]
            return logits.index_select(0, keep.to(logits.device))
