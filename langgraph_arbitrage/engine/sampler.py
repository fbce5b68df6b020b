"""Chooses the next token for each row of logits, greedily or by sampling."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from langgraph_arbitrage.engine.requests import SamplingParams
from langgraph_arbitrage.engine.transfer import on_device, to_host

__all__ = ["sample", "warp"]


def sample(
    logits: Tensor,
    samplings: Sequence[SamplingParams],
    generators: Sequence[random.Random],
    raw: Tensor | None = None,
) -> tuple[list[int], list[float]]:
    """Choose one token per row, on the device of `logits`. Only the results are transferred.

    Args:
        logits: Next-token logits, [B, V].
        samplings: Sampling parameters of each row.
        generators: Random number generator of each row. Each sampled token consumes one number, so
            other rows do not affect the choice.
        raw: Logits before the token rules, [B, V]. None: no rules were applied.

    Returns:
        The token ids [B], and their log-probabilities [B] under the softmax of `raw`.
    """
    logits = logits.float()
    ids = logits.max(dim=-1).indices  # [B]; much faster than argmax on a CPU
    sampled = [i for i, s in enumerate(samplings) if s.temperature > 0]
    if sampled:
        rows = on_device(sampled, logits.device)  # [S]
        warped = logits if len(sampled) == len(samplings) else logits.index_select(0, rows)
        probs = warp(warped, [samplings[i] for i in sampled])  # [S, V]
        cumulative = probs.cumsum(dim=-1)
        draws = _column([generators[i].random() for i in sampled], logits)
        # Inverse transform sampling: the first token whose cumulative probability exceeds the draw.
        tokens = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True).squeeze(-1)
        ids.index_copy_(0, rows, tokens.clamp(max=logits.shape[-1] - 1))
    raw = logits if raw is None else raw.float()
    surprisals = cross_entropy(raw, ids, reduction="none")  # [B]
    return to_host(ids, -surprisals)


def warp(logits: Tensor, samplings: Sequence[SamplingParams]) -> Tensor:
    """Compute probabilities [B, V] after temperature, top-k, top-p and min-p, in that order.

    Args:
        logits: Next-token logits, [B, V].
        samplings: Sampling parameters of each row. All temperatures are above 0.
    """
    # Subtract the maximum, because a division by a tiny temperature could overflow.
    logits = logits - logits.max(dim=-1, keepdim=True).values
    logits = logits / _column([s.temperature for s in samplings], logits)
    vocab_size = logits.shape[-1]
    if any(s.top_k for s in samplings):
        max_k = min(max(s.top_k for s in samplings), vocab_size)
        best = logits.topk(max_k, dim=-1).values  # [B, K], descending
        last = on_device(
            [[min(s.top_k, vocab_size) - 1 if s.top_k else -1] for s in samplings], logits.device
        )
        floor = best.gather(-1, last.clamp(min=0)).masked_fill(last < 0, -torch.inf)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    probs = logits.softmax(dim=-1)
    if any(s.top_p < 1 for s in samplings):
        top_p = _column([s.top_p for s in samplings], logits)
        ordered, order = probs.sort(dim=-1, descending=True)
        # Keep a token if the sum of the probabilities before it is below top_p. The most probable
        # token is always kept.
        keep = (ordered.cumsum(dim=-1) - ordered) < top_p
        probs = torch.zeros_like(probs).scatter(-1, order, ordered * keep)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    if any(s.min_p > 0 for s in samplings):
        floor = _column([s.min_p for s in samplings], logits) * probs.max(dim=-1, keepdim=True)[0]
        probs = probs.masked_fill(probs < floor, 0)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Convert one value per row to a tensor [B, 1]."""
    return on_device(values, like.device, like.dtype)[:, None]
