"""Choosing the next token of each row."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from langgraph_arbitrage.engine.requests import SamplingParams
from langgraph_arbitrage.engine.transfer import on_device, read

__all__ = ["choose", "warp"]


def choose(
    logits: Tensor, samplings: Sequence[SamplingParams], randoms: Sequence[random.Random]
) -> tuple[list[int], list[float]]:
    """Choose one token a row, on the logits' device; the host waits for it once, at the end.

    Args:
        logits: Next-token logits, shape [B, V].
        samplings: Settings of each row.
        randoms: Random stream of each row; one number is drawn a sampled token, so a row's
            choice does not depend on its neighbours.

    Returns:
        The B token ids, and their log-probabilities under the unwarped distribution.
    """
    logits = logits.float()
    ids = logits.max(dim=-1).indices  # [B]; many times as fast as argmax on a CPU
    sampled = [i for i, s in enumerate(samplings) if s.temperature > 0]
    if sampled:
        index = on_device(sampled, logits.device)  # [S]
        drawn = logits if len(sampled) == len(samplings) else logits.index_select(0, index)
        probs = warp(drawn, [samplings[i] for i in sampled])  # [S, V]
        cumulative = probs.cumsum(dim=-1)
        draws = _column([randoms[i].random() for i in sampled], logits)
        # Inverse transform: the first token whose cumulative probability exceeds the draw.
        picks = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True).squeeze(-1)
        ids.index_copy_(0, index, picks.clamp(max=logits.shape[-1] - 1))
    surprisals = cross_entropy(logits, ids, reduction="none")  # [B]
    return read(ids, -surprisals)


def warp(logits: Tensor, samplings: Sequence[SamplingParams]) -> Tensor:
    """Probabilities after temperature, top-k and top-p, in that order; shape [B, V]."""
    logits = logits / _column([s.temperature for s in samplings], logits)
    vocabulary = logits.shape[-1]
    if any(s.top_k for s in samplings):
        widest = min(max(s.top_k for s in samplings), vocabulary)
        best = logits.topk(widest, dim=-1).values  # [B, K], descending
        last = on_device(
            [[min(s.top_k, vocabulary) - 1 if s.top_k else -1] for s in samplings], logits.device
        )
        floor = best.gather(-1, last.clamp(min=0)).masked_fill(last < 0, -torch.inf)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    probs = logits.softmax(dim=-1)
    if any(s.top_p < 1 for s in samplings):
        top_p = _column([s.top_p for s in samplings], logits)
        ordered, order = probs.sort(dim=-1, descending=True)
        # A token stays while the mass before it is under top_p, so the first always stays.
        keep = (ordered.cumsum(dim=-1) - ordered) < top_p
        probs = torch.zeros_like(probs).scatter(-1, order, ordered * keep)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """One value a row, shape [B, 1]."""
    return on_device(values, like.device, like.dtype)[:, None]
